// A button on every block of code that copies it.
"use strict";

function copyButton(block) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    const done = await copied(block.querySelector("pre").textContent);
    button.textContent = done ? "Copied" : "Press Ctrl-C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return button;
}

// Whether the text is in the clipboard. Under file:// and plain http a browser may have only the old way.
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

document.addEventListener("DOMContentLoaded", () => {
  for (const block of document.querySelectorAll("div.highlight")) {
    if (block.closest(".highlight-python, .highlight-default, .highlight-bash, .highlight-sh")) block.append(copyButton(block));
  }
  for (const block of document.querySelectorAll("div.highlight pre")) block.tabIndex = 0;  // a long line scrolls by keys
});
