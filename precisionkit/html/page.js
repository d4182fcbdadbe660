"use strict";
(() => {
  const table = document.getElementById("inputs-table");
  const form = document.getElementById("filters");
  if (!table || !form) return;
  const body = table.tBodies[0];
  const original = Array.from(body.rows);
  const VERDICT = 4;
  const texts = new Map(original.map((row) => [row, row.textContent.toLowerCase()]));

  function valueOf(row, column, kind) {
    const text = row.cells[column].textContent;
    if (kind === "text") return text;
    return text === "" ? NaN : Number(text);
  }

  // what is missing comes last in either direction; equal rows keep the order of the report
  function sortedBy(column, kind, direction) {
    const keyed = original.map((row, place) => ({ row, place, value: valueOf(row, column, kind) }));
    const missing = (value) => (kind === "text" ? value === "" : Number.isNaN(value));
    keyed.sort((a, b) => {
      if (missing(a.value) !== missing(b.value)) return missing(a.value) ? 1 : -1;
      if (missing(a.value) || a.value === b.value) return a.place - b.place;
      return (a.value < b.value ? -1 : 1) * direction;
    });
    return keyed.map((item) => item.row);
  }

  function sort(button) {
    const head = button.closest("th");
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    body.append(...sortedBy(head.cellIndex, button.dataset.kind, descending ? -1 : 1));
  }

  function filter() {
    const boxes = Array.from(form.querySelectorAll("input[name=verdict]"));
    const allowed = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    const words = document.getElementById("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of original) {
      const keep = allowed.has(row.cells[VERDICT].textContent) && words.every((word) => texts.get(row).includes(word));
      row.hidden = !keep;
      shown += keep;
    }
    document.getElementById("filter-status").textContent = `${shown} of ${original.length} rows are shown.`;
  }

  for (const button of table.tHead.querySelectorAll("button")) button.addEventListener("click", () => sort(button));
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.reset();
  form.hidden = false;
  filter();
})();
