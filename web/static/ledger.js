// Sorts and filters the ledger's table. ?kind=…, verdict, model or words in the address are taken as set.
// A narrow page shows the first FIRST of the rows that fit, and a button for the others.
"use strict";

const NAMES = ["chapter", "kind", "verdict", "model"];
const FIRST = 25;
const NARROW = window.matchMedia("(max-width: 46em)");

function matches(row, wanted) {
  const words = wanted.words.toLowerCase().split(/\s+/).filter(Boolean);
  const text = row.textContent.toLowerCase();
  return NAMES.every((name) => !wanted[name] || row.dataset[name] === wanted[name]) && words.every((w) => text.includes(w));
}

function filter(form, rows) {
  const wanted = Object.fromEntries(new FormData(form));
  for (const row of rows) row.hidden = !matches(row, wanted);
  const shown = rows.filter((row) => !row.hidden).length;
  form.querySelector("output").textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  cut(document.querySelector("button.more"), [...rows[0].parentNode.rows]);
}

// Leave the first rows of a narrow page; the button names how many others there are. Once pressed it cuts no more.
function cut(button, rows) {
  const found = rows.filter((row) => !row.hidden);
  for (const row of rows) row.classList.toggle("later", !button.dataset.pressed && found.indexOf(row) >= FIRST);
  button.textContent = `Show ${found.length - FIRST} more rows`;
  button.hidden = Boolean(button.dataset.pressed) || found.length <= FIRST;
}

// Sort by a column, upwards first; a second click turns the order round.
function sort(table, rows, heads, column) {
  const button = document.querySelector("button.more");
  const up = heads[column].getAttribute("aria-sort") !== "ascending";
  const key = (row) => row.cells[column].firstChild.textContent.trim();
  const sorted = [...rows].sort((a, b) => (up ? 1 : -1) * key(a).localeCompare(key(b), "en", { numeric: true }));
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
  table.tBodies[0].append(...sorted);
  cut(button, sorted);
}

// Open the row that the address names, also where a filter hides it.
function openNamed(form, rows) {
  const row = rows.find((r) => `#${r.id}` === location.hash);
  if (!row) return;
  if (row.hidden) {
    form.reset();
    filter(form, rows);
  }
  if (row.classList.contains("later")) document.querySelector("button.more").click();
  row.querySelector("details").open = true;
  row.scrollIntoView({ behavior: "instant" });
}

document.addEventListener("DOMContentLoaded", () => {
  const table = document.querySelector("table.ledger");
  if (!table) return;
  const form = document.querySelector(".ledger-filters");
  const rows = [...table.tBodies[0].rows];
  const heads = [...table.tHead.rows[0].cells];
  const asked = new URLSearchParams(location.search);
  for (const name of [...NAMES, "words"]) if (asked.has(name)) form.elements[name].value = asked.get(name);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => filter(form, rows));
  heads.forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => sort(table, rows, heads, column));
  });
  form.elements.sort.addEventListener("change", () => {
    const column = heads.findIndex((head) => head.textContent === form.elements.sort.value);
    heads[column].removeAttribute("aria-sort");
    sort(table, rows, heads, column);
  });
  document.querySelector("button.more").addEventListener("click", (event) => {
    event.target.dataset.pressed = "yes";
    filter(form, rows);
  });
  form.hidden = false;
  filter(form, rows);
  openNamed(form, rows);
  window.addEventListener("hashchange", () => openNamed(form, rows));
});
