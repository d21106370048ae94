// Runs before the page is drawn, so that a chosen appearance doesn't flash.
const theme = localStorage.getItem("llama3-mlx.theme");
if (theme) document.documentElement.dataset.theme = theme;
