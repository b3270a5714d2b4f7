// Close with the cross, a click beside the view or Escape; arrows go to the neighbours in the gallery.
// those of the tab in front
const cards = () => [...document.querySelectorAll(".ah-card, .ah-l-row")].filter((card) => card.offsetParent);
const shown = () => element.querySelector("[data-index]");
const close = () => {
  const index = shown()?.dataset.index;
  props.value = "";
  cards().find((card) => card.dataset.index === index)?.focus();
};
const go = (step) => {
  const at = cards().findIndex((card) => card.dataset.index === shown()?.dataset.index);
  cards()[at + step]?.click();
};
element.addEventListener("click", (event) => {
  if (event.target.closest("[data-close]") || event.target.classList.contains("ah-veil")) close();
  const arrow = event.target.closest("[data-go]");
  if (arrow) go(Number(arrow.dataset.go));
});
document.addEventListener("keydown", (event) => {
  if (!shown()) return;
  if (event.key === "Escape") close();
  if (event.key === "ArrowLeft") go(-1);
  if (event.key === "ArrowRight") go(1);
});
