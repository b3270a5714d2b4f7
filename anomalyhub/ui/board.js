// The board: what is selected, dragged, typed and looked at. Python draws it again after every deed; what the page
// adds (pictures, selection) is put back by refresh().
const all = (selector, at = element) => [...at.querySelectorAll(selector)];
const one = (selector, at = element) => at.querySelector(selector);
const pictures = new Map(), picked = new Set(), wanted = new Set();
let job = null, asking = false, last = null, dialog = null;

const number = (crop) => Number(crop.dataset.crop);
const columnOf = (node) => node.closest("[data-column]")?.dataset.column;
const crops = (node) => all(".ah-crop", node.closest(".ah-column"));

const send = (deed) => {
  ((window.anomalyhubDeeds ??= {})[element.closest(".block").id] ??= []).push(deed);
  one(".ah-board")?.classList.add("ah-waits");
  trigger("click");
};

// pictures of what is in sight, a few at a time
const sight = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    sight.unobserve(target);
    if (target.dataset.picture) wanted.add(target.dataset.picture);
  }
  ask();
});
const show = (image) => {
  const url = pictures.get(image.dataset.picture);
  sight.unobserve(image);
  if (url) image.src = url;
  else sight.observe(image);
};
const ask = async () => {
  if (asking || !wanted.size || !job) return;
  asking = true;
  const batch = [...wanted].slice(0, 40), asked = job;
  batch.forEach((crop) => wanted.delete(crop));
  try {
    const found = await server.pictures({ job: asked, crops: batch.map(Number) });
    if (asked === job) {
      Object.entries(found).forEach(([crop, url]) => pictures.set(crop, url));
      all("img[data-picture]:not([src])").filter((image) => pictures.has(image.dataset.picture)).forEach(show);
    }
  } catch {
    // the tiles stay grey; they are asked for again when the board is drawn
  }
  asking = false;
  ask();
};

const mark = () => {
  const here = all(".ah-crop");
  const there = new Set(here.map(number));
  [...picked].filter((crop) => !there.has(crop)).forEach((crop) => picked.delete(crop));
  here.forEach((crop) => crop.setAttribute("aria-selected", picked.has(number(crop))));
  const count = one(".ah-count");
  if (!count) return;
  one(".ah-toolbar").classList.toggle("ah-some", picked.size > 0);
  count.textContent = picked.size ? `${picked.size} selected` : "Click crops to select them, or drag them";
  for (const tool of all("[data-deed=move], [data-deed=mark], [data-deed=none], [data-deed=new]")) tool.disabled = !picked.size;
  one("[data-deed=look]").disabled = picked.size !== 1;
  const chosen = here.filter((crop) => picked.has(number(crop)));
  for (const tool of all(".ah-toolbar [data-deed=mark]")) {
    const on = chosen.length > 0 && chosen.every((crop) => crop.dataset.mark === tool.dataset.mark);
    tool.setAttribute("aria-pressed", on);
  }
};

const refresh = () => {
  const board = one(".ah-board");
  if (board?.dataset.job !== job) {
    [pictures, picked, wanted].forEach((kept) => kept.clear());
    job = board?.dataset.job ?? null;
  }
  all("img[data-picture]").forEach(show);
  for (const input of all("input")) if (input !== document.activeElement) input.value = input.getAttribute("value");
  for (const list of all(".ah-crops")) {
    const tiles = all(".ah-crop", list);
    (tiles.find((tile) => tile === document.activeElement) ?? tiles[0])?.setAttribute("tabindex", "0");
  }
  one("[data-deed=wide]")?.setAttribute("aria-pressed", !!element.closest(".ah-wide"));
  mark();
};

const pick = (crop, range) => {
  const tiles = crops(crop), from = tiles.findIndex((tile) => number(tile) === last), to = tiles.indexOf(crop);
  if (range && from >= 0) {
    tiles.slice(Math.min(from, to), Math.max(from, to) + 1).forEach((tile) => picked.add(number(tile)));
  } else if (!picked.delete(number(crop))) {
    picked.add(number(crop));
  }
  last = number(crop);
  mark();
};

const focus = (crop) => {
  if (!crop) return;
  crops(crop).forEach((tile) => tile.setAttribute("tabindex", tile === crop ? "0" : "-1"));
  crop.focus();
};

// a dialog of the browser's own: it keeps the focus and closes with Escape
const open = async (request, origin) => {
  const content = await server.look({ job, ...request });
  dialog ??= Object.assign(document.createElement("dialog"), { className: "ah-look" });
  dialog.innerHTML = content;
  dialog.onclick = ({ target }) => {
    if (target === dialog || target.closest("[data-close]")) dialog.close();
    const step = Number(target.closest("[data-go]")?.dataset.go ?? 0);
    if (step) turn(step);
  };
  dialog.onkeydown = ({ key }) => (key === "Escape" ? dialog.close() : turn({ ArrowLeft: -1, ArrowRight: 1 }[key] ?? 0));
  dialog.onclose = () => focus(one(`.ah-crop[data-crop="${dialog.dataset.crop}"]`));
  dialog.dataset.crop = origin ?? "";
  (element.closest(".gradio-container") ?? document.body).append(dialog);
  if (!dialog.open) dialog.showModal();
  one("[data-close]", dialog).focus();
};
const look = (crop) => crop && open({ crop: number(crop) }, number(crop));
const turn = (step) => {
  const here = one(`.ah-crop[data-crop="${dialog.dataset.crop}"]`);
  if (!here || !step) return;
  look(crops(here)[crops(here).indexOf(here) + step]);
};

const deeds = {
  undo: () => send({ deed: "undo" }),
  redo: () => send({ deed: "redo" }),
  none: () => (picked.clear(), mark()),
  all: (tool) => (crops(tool).forEach((crop) => picked.add(number(crop))), mark()),
  new: () => move(null),
  look: () => look(one(`.ah-crop[data-crop="${[...picked][0]}"]`)),
  sheet: (tool) => open({ sheet: columnOf(tool) }),
  mark: (tool) => {
    const value = tool.getAttribute("aria-pressed") === "true" ? "" : tool.dataset.mark;
    send({ deed: "mark", crops: [...picked], mark: value });
  },
  markall: (tool) => send({ deed: "mark", column: columnOf(tool), mark: tool.dataset.mark }),
  split: (tool) => send({ deed: "split", column: columnOf(tool) }),
  more: (tool) => send({ deed: "more", column: columnOf(tool) }),
  wide: () => (element.closest("#ah-discover").classList.toggle("ah-wide"), refresh()),
};
const move = (into) => {
  if (!picked.size) return;
  send({ deed: "move", crops: [...picked], ...(into === null ? {} : { into }) });
  picked.clear();
  mark();
};

element.addEventListener("click", (event) => {
  const crop = event.target.closest(".ah-crop");
  if (crop) return pick(crop, event.shiftKey);
  const tool = event.target.closest("button[data-deed]");
  if (tool && !tool.disabled) {
    tool.closest("details")?.removeAttribute("open");
    deeds[tool.dataset.deed](tool);
  }
});
element.addEventListener("dblclick", (event) => look(event.target.closest(".ah-crop")));
element.addEventListener("change", ({ target }) => {
  if (target.matches("header input")) send({ deed: "rename", column: columnOf(target), name: target.value });
  if (!target.matches("select[data-deed]") || !target.selectedIndex) return;
  const chosen = target.selectedOptions[0], into = "new" in chosen.dataset ? null : chosen.value;
  target.selectedIndex = 0;
  target.closest("details")?.removeAttribute("open");
  if (target.dataset.deed === "move") move(into);
  else send({ deed: "merge", column: columnOf(target), into });
});
element.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (target.matches("header input") && key === "Escape") target.value = target.getAttribute("value");
  if (target.matches("header input") && (key === "Enter" || key === "Escape")) target.blur();
  if (key === "Escape") target.closest("details")?.removeAttribute("open");
  const crop = target.closest(".ah-crop");
  if (!crop) return;
  const tiles = crops(crop), at = tiles.indexOf(crop);
  const row = Math.max(1, tiles.filter((tile) => tile.offsetTop === tiles[0].offsetTop).length);
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row, Home: -at, End: tiles.length - 1 - at }[key];
  if (step !== undefined) focus(tiles[at + step]);
  else if (key === " ") pick(crop, event.shiftKey);
  else if (key === "Enter") look(crop);
  else return;
  event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, textarea, select, dialog");
  if (typing || !element.isConnected || !element.offsetParent || !(event.ctrlKey || event.metaKey)) return;
  const key = event.key.toLowerCase();
  const deed = key === "y" || (key === "z" && event.shiftKey) ? "redo" : key === "z" ? "undo" : null;
  const tool = deed && one(`[data-deed=${deed}]`);
  if (!tool) return;
  event.preventDefault();
  if (!tool.disabled) deeds[deed]();
});
// an open menu closes with a click elsewhere
document.addEventListener("click", ({ target }) => {
  for (const menu of all("details[open]")) if (!menu.contains(target)) menu.removeAttribute("open");
});

// drag and drop: one crop, or all that are selected
const over = (column) => all(".ah-column").forEach((other) => other.classList.toggle("ah-over", other === column));
element.addEventListener("dragstart", (event) => {
  const crop = event.target.closest?.(".ah-crop");
  if (!crop) return;
  if (!picked.has(number(crop))) picked.clear();
  picked.add(number(crop));
  mark();
  event.dataTransfer.effectAllowed = "move";
  event.dataTransfer.setData("text/plain", [...picked].join(" "));
});
element.addEventListener("dragover", (event) => {
  const column = event.target.closest(".ah-column");
  over(column);
  if (column && picked.size) event.preventDefault();
});
element.addEventListener("dragleave", (event) => element.contains(event.relatedTarget) || over(null));
element.addEventListener("dragend", () => over(null));
element.addEventListener("drop", (event) => {
  const column = event.target.closest(".ah-column");
  over(null);
  if (!column) return;
  event.preventDefault();
  const away = all('.ah-crop[aria-selected="true"]').some((crop) => crop.closest(".ah-column") !== column);
  if (away) move(column.dataset.column ?? null);
});

watch("value", refresh);
refresh();
