// A click on a row says which one it was, a click on a column's head by what to sort.
element.addEventListener("click", (event) => {
  const head = event.target.closest("[data-sort]");
  const row = event.target.closest("[data-index]");
  if (head) {
    window.anomalyhubSort = head.dataset.sort;
    trigger("select", { value: head.dataset.sort });
  } else if (row) {
    window.anomalyhubPicked = Number(row.dataset.index);
    trigger("click", { index: window.anomalyhubPicked });
  }
});
