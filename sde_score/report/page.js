// Tables that sort, pictures that enlarge, and dark or light as the reader likes.
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const show = (on) => document.documentElement.classList.toggle("dark", on);
  show(dark.matches);
  dark.addEventListener("change", () => show(dark.matches));
  document.getElementById("shade").onclick = () =>
    show(!document.documentElement.classList.contains("dark"));

  // The number that a cell begins with, or its text.
  function rank(row, column) {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text);
    return Number.isNaN(number) ? [1, text] : [0, number];
  }

  function sort(header) {
    const table = header.closest("table");
    const column = header.cellIndex;
    const up = header.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows].map((row) => [rank(row, column), row]);
    const order = ([[kind, a]], [[other, b]]) => {
      if (kind !== other) return kind - other;
      const least = a < b ? -1 : Number(a > b);
      return up ? least : -least;
    };
    const free = rows.filter(([, row]) => !row.classList.contains("floor")).sort(order);
    const fixed = rows.filter(([, row]) => row.classList.contains("floor"));
    [...free, ...fixed].forEach(([, row]) => table.tBodies[0].append(row));
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.parentNode.tagName === "TH") sort(button.parentNode);
    if (!button.classList.contains("large")) return;
    const dialog = document.getElementById("large");
    const [picture, name] = [dialog.querySelector("img"), dialog.querySelector("p")];
    picture.src = button.querySelector("img").src;
    picture.alt = button.querySelector("img").alt;
    name.textContent = picture.alt;
    dialog.classList.toggle("wide", picture.naturalWidth > 400);
    dialog.showModal();
  });
  document.getElementById("large").onclick = (event) => event.currentTarget.close();
})();
