// A live plot: one or two lines over the last minutes, with what they are now in words beside.

import { fill, h, svg } from "./dom.js";

const WIDE = 600;
const HIGH = 140;

export class Plot {
  /// `lines`: {name, title} each. `words` writes a value. `kept_ms`: so far back it goes.
  constructor({ title, lines, words, kept_ms: kept }) {
    Object.assign(this, { lines, words, kept, points: [] });
    this.now = lines.map(() => h("strong", {}, "–"));
    this.scale = h("span", { class: "scale" });
    this.paths = lines.map((line) => svg("path", { class: `line ${line.name}` }));
    this.areas = lines.map((line) => svg("path", { class: `area ${line.name}` }));
    const grid = [0.25, 0.5, 0.75].map((part) =>
      svg("line", { class: "mark", x1: 0, x2: WIDE, y1: HIGH * part, y2: HIGH * part }),
    );
    this.picture = svg(
      "svg",
      { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img", "aria-label": title },
      ...grid,
      ...this.areas,
      ...this.paths,
    );
    const legend = lines.map((line, at) =>
      h("li", { class: line.name }, h("span", { class: "key" }), `${line.title} `, this.now[at]),
    );
    this.element = h(
      "section",
      { class: "card plot" },
      h("h2", {}, title),
      h("ul", { class: "legend" }, legend),
      h(
        "div",
        { class: "frame" },
        this.picture,
        this.scale,
        h("span", { class: "from" }, `${Math.round(kept / 60_000)} minutes ago`),
        h("span", { class: "to" }, "now"),
      ),
    );
  }

  /// One more value of each line (`null`: not known), at this time.
  add(at, values) {
    this.points.push({ at, values });
    this.points = this.points.filter((point) => at - point.at <= this.kept);
    const most = Math.max(...this.points.flatMap((point) => point.values.filter((value) => value !== null)), 0);
    const top = niceTop(most);
    for (const number of this.lines.keys()) {
      const places = this.points
        .filter((point) => point.values[number] !== null)
        .map((point) => [
          WIDE - ((at - point.at) / this.kept) * WIDE,
          HIGH - (point.values[number] / top) * (HIGH - 4),
        ]);
      const line = places.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
      this.paths[number].setAttribute("d", line);
      this.areas[number].setAttribute(
        "d",
        places.length > 1 ? `${line}L${places.at(-1)[0].toFixed(1)} ${HIGH}L${places[0][0].toFixed(1)} ${HIGH}Z` : "",
      );
      fill(this.now[number], values[number] === null ? "–" : this.words(values[number]));
    }
    fill(this.scale, this.words(top));
  }
}

/// The next of 1, 2, 5, 10, 20, ... that nothing goes beyond.
function niceTop(most) {
  if (most <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((one) => one * power).find((one) => one >= most);
}
