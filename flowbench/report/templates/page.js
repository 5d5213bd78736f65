"use strict";
(() => {
  // Tables: a click on a column's name sorts by it, a second one the other way round.
  const key = (row, column) => {
    const cell = row.cells[column];
    // A number's small print is no part of it: without a value there is nothing to sort by.
    const text = cell.dataset.sort ?? (cell.classList.contains("number") ? "" : cell.textContent.trim());
    const number = Number(text);
    return text === "" ? null : Number.isNaN(number) ? text.toLowerCase() : number;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  const sort = (table, head, column) => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [key(row, column), row]);
    // What has no figure stays at the end, whichever way the others are sorted.
    rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : up ? compare(a, b) : compare(b, a)));
    body.append(...rows.map(([, row]) => row));
  };
  // The figure in full stands beside the pointer.
  for (const cell of document.querySelectorAll(".number[data-sort]")) cell.title = cell.dataset.sort;
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "Sort by this column";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, head, column));
    });
  }

  // Commands and configs: copied with one click.
  for (const code of document.querySelectorAll("code.copy")) {
    if (!navigator.clipboard) break;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    code.after(button);
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  // Plots that only the page holds: saved from it.
  for (const image of document.querySelectorAll("figure img")) {
    const caption = image.parentElement.querySelector("figcaption");
    if (caption.querySelector("a")) continue;
    const link = document.createElement("a");
    link.href = image.src;
    link.download = `${image.closest("[id]").id}.svg`;
    link.textContent = "SVG";
    caption.append(" (", link, ")");
  }

  // A link into a folded part unfolds it; on paper all parts are unfolded.
  const unfold = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    for (const part of target?.querySelectorAll?.(":scope > details.fold") ?? []) part.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", unfold);
  unfold();
  addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
})();
