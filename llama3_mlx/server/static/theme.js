// Runs before the page is drawn, so that a chosen appearance doesn't flash.
try {
  const theme = localStorage.getItem("llama3-mlx.theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // A browser that keeps nothing for this page keeps no appearance.
}
