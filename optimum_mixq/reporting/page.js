// What a report can do beside being read: its table sorts, and a slider shows the bits of other sizes.
"use strict";

function sortRows(table, column, descending) {
  const body = table.tBodies[0];
  const key = (row) => {
    const value = row.cells[column].dataset.value;
    return value === undefined ? null : Number(value);
  };
  const compare = (first, second) => {
    const left = key(first), right = key(second);
    if (left === null || right === null) return (left === null) - (right === null); // what is empty comes last
    return descending ? right - left : left - right;
  };
  body.append(...[...body.rows].sort(compare));
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      // The names keep their order in the network first, numbers start with the greatest.
      const descending = head.ariaSort === "none" ? column > 0 : head.ariaSort === "ascending";
      heads.forEach((other) => { other.ariaSort = "none"; });
      head.ariaSort = descending ? "descending" : "ascending";
      sortRows(table, column, descending);
    });
  });
}

function paintHalf(cell, side, bits, shades) {
  const rect = cell.querySelector(`rect[data-side="${side}"]`);
  if (rect === null) return; // a product of two activations has no weight
  const [opacity, ink] = shades[bits];
  rect.setAttribute("fill-opacity", opacity);
  const text = cell.querySelector(`tspan[data-side="${side}"]`);
  text.textContent = bits;
  text.setAttribute("class", ink);
  if (side === 0) cell.querySelector('tspan[data-side="slash"]').setAttribute("class", ink);
}

function showStop(number, data) {
  const stop = data.stops[number];
  document.querySelectorAll(".grid [data-unit]").forEach((cell, place) => {
    const [weights, activations] = stop.bits[place];
    paintHalf(cell, 0, weights, data.shades);
    paintHalf(cell, 1, activations, data.shades);
    cell.querySelector("title").textContent = stop.titles[place];
  });
  stop.facts.forEach(([, value], place) => {
    document.querySelectorAll("#facts dd")[place].textContent = value;
  });
  document.getElementById("stop-name").textContent = stop.name;
  document.getElementById("stop").setAttribute("aria-valuetext", stop.name);
  document.querySelectorAll("[data-stop]").forEach((mark) => {
    mark.classList.toggle("chosen", Number(mark.dataset.stop) === number);
  });
}

function startSlider() {
  const source = document.getElementById("stops");
  if (source === null) return; // nothing but this model was measured
  const data = JSON.parse(source.textContent);
  const slider = document.getElementById("stop");
  const go = (number) => { slider.value = number; showStop(number, data); };
  slider.addEventListener("input", () => showStop(Number(slider.value), data));
  document.getElementById("stop-own").addEventListener("click", () => go(data.own));
  document.querySelectorAll("[data-stop]").forEach((mark) => {
    mark.addEventListener("click", () => go(Number(mark.dataset.stop)));
  });
  go(data.own);
}

function openForPrint() {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((part) => { part.open = false; }));
}

document.documentElement.classList.add("scripted");
document.querySelectorAll("table.sortable").forEach(makeSortable);
startSlider();
openForPrint();
