"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");

// Pictures are kept once, in the data.
for (const img of document.querySelectorAll("img[data-image]")) {
  const source = data.images[img.dataset.image][3];
  if (source) img.src = source;
  else img.parentElement.classList.add("missing");
}

// Tables: a click or Enter on a column head sorts, best first; a second one reverses. Empty cells stay at the end.
function sort(table, column, head) {
  const sorted = head.getAttribute("aria-sort");
  const down = sorted ? sorted === "ascending" : head.firstElementChild.dataset.first === "descending";
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const key = (row) => row.cells[column].dataset.sort;
  const numeric = [...body.rows].every((row) => key(row) === "" || !isNaN(key(row)));
  const order = (a, b) => (numeric ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    return down ? order(y, x) : order(x, y);
  });
  body.append(...rows);
}
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th").forEach((head, column) => {
    head.firstElementChild.addEventListener("click", () => sort(table, column, head));
  });
  // A long table shows its first rows and says how many there are.
  const count = table.tBodies[0].rows.length;
  if (count > 25) {
    table.classList.add("short");
    const all = document.createElement("button");
    all.type = "button";
    all.className = "all";
    all.textContent = `Show all ${count} rows`;
    all.addEventListener("click", () => {
      table.classList.remove("short");
      all.remove();
    });
    table.parentElement.after(all);
  }
}

// A table wider than the page is marked as such; one that fits keeps its head in sight.
for (const box of document.querySelectorAll(".scroll")) {
  const look = () => {
    const wide = box.scrollWidth > box.clientWidth + 1;
    box.classList.toggle("fits", !wide);
    box.classList.toggle("more", wide && box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
    const hint = box.previousElementSibling;
    if (hint && hint.className === "hint") hint.hidden = !wide;
  };
  new ResizeObserver(look).observe(box);
  box.addEventListener("scroll", look, { passive: true });
}

// One regressor at a time; a reader without scripts sees all.
const choice = document.getElementById("regressor");
if (choice) {
  document.body.classList.add("choosing");
  const choose = () => {
    for (const part of document.querySelectorAll("[data-regressor]")) {
      part.hidden = part.dataset.regressor !== choice.value;
    }
  };
  choice.addEventListener("change", choose);
  choose();
}

// Figures: show the image of the nearest point. Names are inserted as text, never as HTML.
function line(className, text) {
  const p = document.createElement("p");
  p.className = className;
  p.textContent = text;
  return p;
}
function alike(images, number) {
  const row = document.createElement("p");
  row.className = "alike";
  for (const [id, , rated, picture] of images.map((image) => data.images[image])) {
    const one = document.createElement("span");
    if (picture) {
      const img = document.createElement("img");
      img.src = picture;
      img.alt = id;
      one.append(img);
    }
    one.append(number(rated));
    row.append(one);
  }
  return row;
}
function fill(point) {
  const result = data.results[point.result];
  const [id, dataset, rated, picture] = data.images[result.images[point.row]];
  const predicted = result.predicted[point.row];
  const words = document.createElement("div");
  words.className = "words";
  const number = (value, digits = result.digits) => value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−");
  const spread = result.spread ? ` ± ${number(result.spread[point.row])}` : "";
  const size = number(Math.abs(predicted - rated));
  const error = Number(size) === 0 ? size : (predicted < rated ? "−" : "+") + size;
  words.append(
    line("head", id),
    line("name", dataset),
    line("", `rated ${number(rated)}`),
    line("", `predicted ${number(predicted)}${spread} (${error}) by ${result.regressor}`),
  );
  for (const [what, digits] of [["attention", 2], ["contributions", result.digits]]) {
    const arms = Object.entries(result[what]);
    if (arms.length) {
      words.append(line("", `${what} ` + arms.map(([arm, w]) => `${arm} ${number(w[point.row], digits)}`).join(", ")));
    }
  }
  const near = data.near[result.images[point.row]];
  if (near) words.append(line("name", "most like it, as rated:"), alike(near, number));
  tip.replaceChildren(words);
  if (picture) {
    const img = document.createElement("img");
    img.src = picture;
    img.alt = id;
    tip.prepend(img);
  }
}
function place(x, y) {
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 18 + width > innerWidth ? x - width - 18 : x + 18;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, Math.min(y - height / 2, innerHeight - height - 8))}px`;
}
function hide() {
  tip.hidden = true;
  for (const ring of document.querySelectorAll(".ring")) ring.remove();
}
function show(svg, point) {
  hide();
  const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  ring.setAttribute("class", "ring");
  ring.setAttribute("cx", point.x);
  ring.setAttribute("cy", point.y);
  ring.setAttribute("r", 4.5);
  svg.append(ring);
  fill(point);
  tip.hidden = false;
  const at = ring.getBoundingClientRect();
  place(at.x + at.width / 2, at.y + at.height / 2);
}
function explore(figure) {
  const svg = figure.querySelector("svg");
  const points = data.panels[figure.dataset.panel].flatMap((layer) =>
    layer.rows.map((row, i) => ({ result: layer.result, row, x: layer.x[i], y: layer.y[i] })),
  );
  const inOrder = points.slice().sort((a, b) => a.x - b.x);
  let current = -1;
  const nearest = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    let [best, least] = [null, 14 ** 2]; // squared: at most 14 of the figure's own units from a point
    for (const point of points) {
      const distance = (point.x - at.x) ** 2 + (point.y - at.y) ** 2;
      if (distance < least) [best, least] = [point, distance];
    }
    if (best) show(svg, best);
    else hide();
  };
  svg.addEventListener("pointermove", nearest);
  svg.addEventListener("pointerdown", nearest);
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  svg.setAttribute("tabindex", "0");
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const last = inOrder.length - 1;
    const next = { ArrowRight: Math.min(last, current + 1), ArrowLeft: Math.max(0, current - 1), Home: 0, End: last };
    if (event.key === "Escape") hide();
    if (!(event.key in next)) return;
    event.preventDefault();
    current = next[event.key];
    show(svg, inOrder[current]);
  });
}
document.querySelectorAll("figure[data-panel]").forEach(explore);
addEventListener("scroll", hide, { passive: true });
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
