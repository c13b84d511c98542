// Tables in an element of class "sortable": a click on the head of a column sorts its rows.
"use strict";
(() => {
  for (const header of document.querySelectorAll(".sortable th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.onclick = () => sort(header);
  }

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
})();
