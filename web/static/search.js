// A question in a reader's words: a heading that says it comes first, and where few pages hold every word of it, those
// that hold any follow.
// Wraps the search of Sphinx (searchtools.js), whose results come worst first.
"use strict";

const FEW = 3;

const plain = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, " ").trim();

// Of a query of several words: headings that hold it as it stands. The heading of a result is behind its page's title.
function headingsFirst(query, found) {
  const says = (result) => result[2] && plain(result[1].split(" > ").at(-1)).includes(plain(query));
  if (!plain(query).includes(" ")) return found;
  return [...found.filter((result) => !says(result)), ...found.filter(says)];
}

function anyWord(strict) {
  return (query, words, excluded, marked, objects) => {
    const found = headingsFirst(query, strict(query, words, excluded, marked, objects));
    if (found.length >= FEW || words.size < 2) return found;
    const pages = new Map();  // page -> [result, of how many words, sum of scores]
    for (const word of words) {
      for (const result of strict(word, new Set([word]), excluded, marked, new Set())) {
        const [first, count, score] = pages.get(result[0]) || [result, 0, 0];
        if (first !== result && first.lastWord === word) continue;
        first.lastWord = word;
        pages.set(result[0], [first, count + 1, score + result[4]]);
      }
    }
    for (const result of found) pages.delete(result[0]);
    const others = [...pages.values()].sort((a, b) => a[1] - b[1] || a[2] - b[2]);
    return [...others.map((entry) => entry[0]), ...found];
  };
}

document.addEventListener("DOMContentLoaded", () => {
  const field = document.querySelector(".search-again input");
  if (field) field.value = new URLSearchParams(location.search).get("q") || "";
});
if (typeof Search !== "undefined") Search._performSearch = anyWord(Search._performSearch);
