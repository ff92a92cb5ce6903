"use strict";
(() => {
  const root = document.documentElement;
  const charts = JSON.parse(document.getElementById("chart-data").textContent);
  const narrow = matchMedia("(max-width: 40rem)");
  const fine = matchMedia("(pointer: fine)").matches;
  const hidden = {};
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  // Plotly reads a few tags in text; names are data, so they are shown as they stand.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const translucent = (hex, alpha) => {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    return `rgba(${r},${g},${b},${alpha})`;
  };
  const shown = (value, percent) =>
    percent ? `${(100 * value).toFixed(1)} %` : String(Number(value.toPrecision(4)));

  function traces(chart) {
    const bands = [];
    const lines = [];
    for (const series of chart.series) {
      const visible = !(hidden[chart.id] && hidden[chart.id].has(series.group));
      const ink = colour(`--s${series.colour}`);
      if (series.low) {
        const known = series.x.map((_, i) => i).filter((i) => series.low[i] !== null && series.high[i] !== null);
        const back = [...known].reverse();
        bands.push({
          type: "scatter", mode: "lines", fill: "toself", hoverinfo: "skip", showlegend: false, visible,
          x: [...known.map((i) => series.x[i]), ...back.map((i) => series.x[i])],
          y: [...known.map((i) => series.high[i]), ...back.map((i) => series.low[i])],
          line: { width: 0 }, fillcolor: translucent(ink, 0.14),
        });
      }
      const text = series.y.map((value, i) => {
        const range = series.low && series.low[i] !== null && series.high[i] !== null
          ? `<br>${shown(series.low[i], chart.y.percent)} to ${shown(series.high[i], chart.y.percent)}` : "";
        const note = series.note && series.note[i] ? `<br>${plain(series.note[i])}` : "";
        return `<b>${shown(value, chart.y.percent)}</b> ${plain(series.name)}${note}${range}`;
      });
      lines.push({
        type: "scatter", mode: chart.markers || series.x.length < 3 ? "lines+markers" : "lines", visible,
        x: series.x, y: series.y, text, hovertemplate: "%{text}<extra></extra>", showlegend: false,
        name: plain(series.name), cliponaxis: false, marker: { size: 6, color: ink },
        opacity: series.thin ? 0.75 : 1,
        line: { color: ink, width: series.thin ? 1.3 : 2, dash: ["solid", "dash", "dot"][series.dash] },
      });
    }
    return [...bands, ...lines];
  }

  // A table of numbers around 0 as colours: blue below, red above.
  const ramp = [[0, "rgb(33,102,172)"], [0.25, "rgb(103,169,207)"], [0.5, "rgb(247,247,247)"], [0.75, "rgb(239,138,98)"], [1, "rgb(178,24,43)"]];
  function heat(chart) {
    const font = { size: 11, color: colour("--muted") };
    return [{
      type: "heatmap", x: chart.x.names.map(plain), y: chart.y.names.map(plain), z: chart.z, text: chart.text,
      customdata: chart.note, texttemplate: "%{text}", textfont: { size: 10 }, hoverongaps: false, xgap: 1, ygap: 1,
      hovertemplate: "<b>%{y}</b><br>%{x}<br>%{customdata}<extra></extra>",
      colorscale: ramp, zmin: -chart.limit, zmax: chart.limit,
      colorbar: { tickvals: chart.ticks.at, ticktext: chart.ticks.names, tickfont: font, thickness: 10, outlinewidth: 0, len: 1 },
    }];
  }
  function heatLayout(chart) {
    const font = { size: 11, color: colour("--ink") };
    const names = { tickfont: font, showgrid: false, zeroline: false, automargin: true, fixedrange: true, ticks: "" };
    return {
      ...layout(chart), margin: { l: 10, r: 0, t: 10, b: 10 }, dragmode: false,
      xaxis: { ...names, side: "top", tickangle: -60 }, yaxis: { ...names, autorange: "reversed" },
    };
  }

  function axis(spec, grid) {
    return {
      range: spec.range,
      title: { text: plain(spec.title || ""), standoff: 10, font: { size: 12, color: colour("--muted") } },
      type: spec.log ? "log" : "linear", tickformat: spec.percent ? "~%" : spec.powers ? ".0e" : "~r",
      gridcolor: colour("--grid"), showgrid: grid, zeroline: false, linecolor: colour("--line"), showline: !grid,
      tickfont: { size: 12, color: colour("--muted") }, automargin: true, fixedrange: !fine,
      rangemode: spec.zero ? "tozero" : "normal", dtick: spec.dtick, nticks: spec.ticks || (grid || !narrow.matches ? 7 : 5),
    };
  }

  const height = (chart) => (narrow.matches && !chart.z ? Math.min(chart.height, 300) : chart.height);

  function layout(chart) {
    return {
      height: height(chart), autosize: true, margin: { l: 48, r: 10, t: 10, b: 42 }, showlegend: false,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      dragmode: fine ? "zoom" : false, font: { family: getComputedStyle(document.body).fontFamily, color: colour("--ink") },
      hoverlabel: { bgcolor: colour("--raised"), bordercolor: colour("--line"), font: { color: colour("--ink"), size: 13 }, align: "left" },
      xaxis: axis(chart.x, false), yaxis: axis(chart.y, true),
    };
  }

  function draw(chart) {
    const place = document.getElementById(chart.id);
    place.style.height = `${height(chart)}px`;
    const [data, form] = chart.z ? [heat(chart), heatLayout(chart)] : [traces(chart), layout(chart)];
    Plotly.react(place, data, form, { displayModeBar: false, doubleClick: "reset" });
  }

  const drawAll = () => charts.forEach(draw);
  if (charts.length) {
    drawAll();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
    narrow.addEventListener("change", drawAll);
    // Not Plotly's own listener, which hears of the window only: a scroll bar or a late layout changes the width, too.
    const sizes = new ResizeObserver((entries) => entries.forEach((entry) => Plotly.Plots.resize(entry.target)));
    charts.forEach((chart) => sizes.observe(document.getElementById(chart.id)));
  }

  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const pressed = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!pressed));
      const own = new Set([...button.closest("section").querySelectorAll(".canvas")].map((element) => element.id));
      for (const chart of charts.filter((chart) => own.has(chart.id))) {
        hidden[chart.id] = hidden[chart.id] || new Set();
        hidden[chart.id][pressed ? "add" : "delete"](button.dataset.group);
        draw(chart);
      }
    });
  }

  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.sort !== undefined ? cell.dataset.sort : cell.textContent.trim();
  };
  function compare(a, b) {
    const [x, y] = [a, b].map((value) => (value === "" || value === "–" ? NaN : Number(value)));
    if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    return a.localeCompare(b, undefined, { numeric: true });
  }
  function sortBy(table, header) {
    const column = header.cellIndex;
    const before = header.getAttribute("aria-sort");
    // Numbers are first wanted from the best down, names from A on.
    const first = header.classList.contains("n") ? "descending" : "ascending";
    const order = !before ? first : before === "ascending" ? "descending" : "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
    const missing = (row) => ["", "–"].includes(key(row, column));
    const sorted = [...table.tBodies[0].rows].sort((a, b) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return (order === "ascending" ? 1 : -1) * compare(key(a, column), key(b, column));
    });
    table.tBodies[0].append(...sorted);
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const header of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sortBy(table, header));
    }
  }

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((entry) => entry.isIntersecting)) {
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id).setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -75% 0px" });
  for (const section of document.querySelectorAll("main > section")) watch.observe(section);
})();
