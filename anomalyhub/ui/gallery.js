// A click on a picture says which one it was; the detail view asks for its neighbours the same way.
element.addEventListener("click", (event) => {
  const card = event.target.closest("[data-index]");
  if (!card) return;
  window.anomalyhubPicked = Number(card.dataset.index);
  trigger("click", { index: window.anomalyhubPicked });
});
