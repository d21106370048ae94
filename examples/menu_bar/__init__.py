"""An assistant in the menu bar; the program itself is in llama_bar/."""
