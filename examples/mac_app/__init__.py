"""A desktop application around a model; the program itself is in llama_desk/."""
