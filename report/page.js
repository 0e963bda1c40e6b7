"use strict";
// Sorting, filtering, copying. The page is whole without any of it; the address keeps what was chosen:
// #benchmark=mt_bench&policy=…&metric=…&search=…&sort=-value (a minus: from large to small).

const FILTERS = ["benchmark", "policy", "metric", "search"];
const form = document.getElementById("filters");
const results = document.getElementById("table-results");

// What a cell sorts by: its number where it has one, else its text; nothing comes last either way.
function sortKey(row, place) {
  const cell = row.cells[place];
  if (cell.dataset.sort !== undefined) return Number(cell.dataset.sort);
  const text = cell.textContent.trim();
  return text === "" || text === "–" ? null : text;
}

function compareKeys(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return String(one).localeCompare(String(other), "en", { numeric: true });
}

function sortTable(table, head, descending) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows).map((row) => [sortKey(row, head.cellIndex), row]);
  rows.sort(([one], [other]) => {
    if (one === null || other === null) return (one === null) - (other === null);
    return compareKeys(one, other) * (descending ? -1 : 1);
  });
  body.append(...rows.map(([, row]) => row));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

// Numbers begin with the largest, words with A; a second press turns the order round.
function pressHead(table, head) {
  const before = head.getAttribute("aria-sort");
  const descending = before ? before === "ascending" : head.classList.contains("number");
  sortTable(table, head, descending);
  if (table === results) writeAddress();
}

function filterResults() {
  const words = form.elements.search.value.trim().toLowerCase();
  let shown = 0;
  for (const row of results.tBodies[0].rows) {
    const chosen = ["benchmark", "policy", "metric"].every(
      (name) => !form.elements[name].value || row.dataset[name] === form.elements[name].value
    );
    row.hidden = !chosen || !row.textContent.toLowerCase().includes(words);
    shown += !row.hidden;
  }
  form.querySelector("output").textContent = `${shown} of ${results.tBodies[0].rows.length} rows`;
}

function sortedHead() {
  return results.tHead.querySelector("th[aria-sort]");
}

function writeAddress() {
  const chosen = new URLSearchParams();
  for (const name of FILTERS) if (form.elements[name].value) chosen.set(name, form.elements[name].value);
  const head = sortedHead();
  if (head) chosen.set("sort", (head.getAttribute("aria-sort") === "descending" ? "-" : "") + head.dataset.key);
  history.replaceState(null, "", chosen.size ? `#${chosen}` : location.pathname + location.search);
}

// An address without "=" is a section; the browser goes there by itself.
function readAddress() {
  if (!location.hash.includes("=")) return;
  const chosen = new URLSearchParams(location.hash.slice(1));
  for (const name of FILTERS) form.elements[name].value = chosen.get(name) || "";
  filterResults();
  const sort = chosen.get("sort") || "";
  const key = sort.replace(/^-/, "");
  const head = Array.from(results.tHead.rows[0].cells).find((cell) => cell.dataset.key === key);
  if (head) sortTable(results, head, sort.startsWith("-"));
  openAround(results);
  document.getElementById("results").scrollIntoView();
}

// What stands folded is opened for whoever comes for it.
function openAround(element) {
  for (let fold = element.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
}

async function copy(button) {
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "copied";
  } catch {
    button.textContent = button.dataset.copy; // no clipboard for this page: show it, to be marked by hand
  }
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const head of table.tHead.rows[0].cells) {
    head.firstElementChild.addEventListener("click", () => pressHead(table, head));
  }
}
for (const button of document.querySelectorAll("button.copy")) button.addEventListener("click", () => copy(button));
function openSection() {
  if (location.hash === "#results" && results) openAround(results);
}
addEventListener("hashchange", openSection);
openSection();
if (form) {
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { filterResults(); writeAddress(); });
  form.addEventListener("reset", () => setTimeout(() => { filterResults(); writeAddress(); }));
  filterResults();
  readAddress();
  addEventListener("hashchange", readAddress);
}

// Paper cannot be unfolded; what stands folded inside a table would fill it.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = !details.closest("td");
});
