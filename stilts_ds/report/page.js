// Tables that can be sorted and filtered. Everything is readable without this: controls are made here, nothing is hidden.
"use strict";

const SORTED = ["descending", "ascending", "none"]; // a button's clicks, in turn
const FILTERED_FROM = 8; // rows: a shorter table is seen at a glance

function valueOf(row, column) {
  // The large figure of a cell; a small one is its score.
  const cell = row.cells[column];
  const text = (cell.querySelector("b") ?? cell).textContent;
  const number = parseFloat(text);
  return Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b);
  return typeof a === "number" ? 1 : -1; // what has no number stands below all numbers
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.textContent = "⇅";
    button.setAttribute("aria-label", `sort by ${head.textContent}`);
    button.addEventListener("click", () => {
      const next = SORTED[(SORTED.indexOf(head.ariaSort ?? "none") + 1) % SORTED.length];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      const rows = [...original];
      if (next !== "none") {
        head.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        rows.sort((a, b) => sign * compare(valueOf(a, column), valueOf(b, column)));
      }
      body.append(...rows);
    });
    head.append(" ", button);
  });
}

function makeFilterable(frame, table) {
  const input = document.createElement("input");
  input.type = "search";
  input.placeholder = "filter rows";
  input.className = "filter";
  input.setAttribute("aria-label", `filter the rows of ${frame.getAttribute("aria-label")}`);
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of table.tBodies[0].rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
    }
  });
  frame.before(input);
}

for (const frame of document.querySelectorAll(".frame")) {
  const table = frame.querySelector("table");
  if (table.tBodies[0].rows.length > 2) makeSortable(table);
  if (table.tBodies[0].rows.length >= FILTERED_FROM) makeFilterable(frame, table);
}
