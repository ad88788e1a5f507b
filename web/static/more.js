// Marks a box that holds more to the right than it shows: book.css gives it a shade at that edge.
"use strict";

const BOXES = ".printed-table, .formula, pre.printed.columns, div.highlight pre, .parts-box, a.picture";

function mark(box) {
  box.classList.toggle("goes-on", box.scrollWidth - box.clientWidth - box.scrollLeft > 4);
}

document.addEventListener("DOMContentLoaded", () => {
  const boxes = [...document.querySelectorAll(BOXES)];
  const all = () => boxes.forEach(mark);
  for (const box of boxes) box.addEventListener("scroll", () => mark(box), { passive: true });
  window.addEventListener("resize", all);
  document.addEventListener("toggle", all, true); // what was folded had no width
  all();
});
