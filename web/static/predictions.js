// What the reader predicts stays in this browser and is shown again beside the measured value.
// A question and its answer carry the same data-prediction; the text is kept in localStorage under that name.
"use strict";

function kept(name) {
  try {
    return localStorage.getItem(name) || "";
  } catch {
    return "";  // a browser may refuse to keep anything
  }
}

function keep(name, text) {
  try {
    if (text.trim()) localStorage.setItem(name, text);
    else localStorage.removeItem(name);
  } catch {
    // then it lasts as long as the page
  }
}

function showAgain(name, text) {
  for (const echo of document.querySelectorAll(`.prediction-echo[data-prediction="${name}"]`)) {
    echo.querySelector("q").textContent = text;
    echo.hidden = !text.trim();
  }
}

document.addEventListener("DOMContentLoaded", () => {
  for (const question of document.querySelectorAll(".prediction")) {
    const name = question.dataset.prediction;
    const field = question.querySelector("textarea");
    field.value = kept(name);
    field.addEventListener("input", () => {
      keep(name, field.value);
      showAgain(name, field.value);
    });
    showAgain(name, field.value);
    question.hidden = false;
  }
});
