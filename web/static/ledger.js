// Sorts and filters the ledger's table. ?kind=…, verdict, model or words in the address are taken as set.
"use strict";

const NAMES = ["kind", "verdict", "model"];

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
}

// Sort by a column, upwards first; a second click turns the order round.
function sort(table, rows, heads, column) {
  const up = heads[column].getAttribute("aria-sort") !== "ascending";
  const key = (row) => row.cells[column].firstChild.textContent.trim();
  const sorted = [...rows].sort((a, b) => (up ? 1 : -1) * key(a).localeCompare(key(b), "en", { numeric: true }));
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
  table.tBodies[0].append(...sorted);
}

// Open the row that the address names, also where a filter hides it.
function openNamed(form, rows) {
  const row = rows.find((r) => `#${r.id}` === location.hash);
  if (!row) return;
  if (row.hidden) {
    form.reset();
    filter(form, rows);
  }
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
  form.hidden = false;
  filter(form, rows);
  openNamed(form, rows);
  window.addEventListener("hashchange", () => openNamed(form, rows));
});
