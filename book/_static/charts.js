/* Draws every chart of a page with the book's own copy of Vega, in the colours of the page's mode. */
(function () {
  "use strict";
  const vega = new URL("vega.js", document.currentScript.src);
  const INK = { light: ["#1f2328", "#c8ccd1"], dark: ["#e6e6e6", "#4b5158"] };
  const NARROW = 500; /* pixels: a phone; panels stand one below the other there */
  const ENTRY = 150; /* pixels that an entry of a legend takes */
  const LETTER = 6.5; /* pixels that a letter of an axis' title takes */
  const LINE = 14; /* pixels from one line of a name to the next */
  const NAME = 18; /* letters of a name on a phone, then it takes another line */
  const LEAST = 120; /* pixels that a panel has at least */
  const views = {};
  const widths = {};
  const printed = matchMedia("print");

  function mode() {
    return document.documentElement.dataset.theme === "dark" && !printed.matches ? "dark" : "light";
  }

  function colours() {
    const [ink, rule] = INK[mode()];
    const text = { labelColor: ink, titleColor: ink };
    return {
      aria: false,
      axis: { ...text, gridColor: rule, domainColor: rule, tickColor: rule },
      legend: { ...text, symbolBaseFillColor: ink, symbolBaseStrokeColor: ink }, header: text, title: { color: ink, subtitleColor: ink },
      text: { color: ink }, rule: { color: ink },
    };
  }

  /* What a reader may choose stands before the chart: within it, as within any image, no screen reader would find it. */
  function choices(chart) {
    const id = chart.id + "-choices";
    const place = document.getElementById(id) || document.createElement("div");
    Object.assign(place, { id, className: "tttnn-choices" }).replaceChildren();
    place.setAttribute("role", "group");
    place.setAttribute("aria-label", "What the chart below shows");
    chart.before(place);
    return place;
  }

  /* As many entries side by side, and as many panels, as the column has room for. */
  function fitted(spec, width) {
    const legend = spec.config.legend;
    legend.columns = Math.max(1, Math.min(legend.columns || 4, Math.floor(width / ENTRY)));
    if (width < NARROW) {
      const rows = Object.values(spec.datasets || {}).flat();
      parts(spec).forEach(part => stack(part, width));
      parts(spec).forEach(part => heighten(part, rows));
    }
    return spec;
  }

  /* A specification and all charts within it. */
  function parts(spec) {
    const within = [spec.spec, ...(spec.layer || []), ...(spec.hconcat || []), ...(spec.vconcat || []), ...(spec.concat || [])];
    return [spec, ...within.filter(Boolean).flatMap(parts)];
  }

  /* On a phone panels stand one below the other, and titles of axes take several lines. */
  function stack(part, width) {
    if (part.columns) part.columns = 1;
    if (part.hconcat) { part.vconcat = part.hconcat; delete part.hconcat; }
    const { x, y, facet } = part.encoding || {};
    if (facet?.columns) facet.columns = 1;
    if (x?.title) {
      x.title = lines(x.title, width / LETTER - 4);
      x.axis = { ...x.axis, titleAnchor: "end" }; /* it may begin below the labels of the other axis */
    }
    if (y?.title && part.height > 0) y.title = lines(y.title, part.height / LETTER);
    if (y?.type === "nominal") {
      y.axis = { ...y.axis, labelExpr: `split(replace(datum.label, regexp('(.{9,${NAME}}) ', 'g'), '$1\\n'), '\\n')` };
    }
  }

  /* Rows take the room that their names need. */
  function heighten(part, rows) {
    const fields = parts(part).map(each => each.encoding?.y).filter(y => y?.type === "nominal").map(y => y.field);
    const longest = Math.max(0, ...fields.flatMap(field => rows.map(row => String(row[field] ?? "").length)));
    if (part.height?.step && longest > NAME) part.height.step = Math.max(part.height.step, LINE * (1.5 + longest / NAME));
  }

  function lines(text, letters) {
    const found = [""];
    for (const word of [text].flat().join(" ").split(" ")) {
      const last = found[found.length - 1];
      if (last && last.length + word.length >= letters) found.push(word);
      else found[found.length - 1] = last ? last + " " + word : word;
    }
    return found;
  }

  /* Panels of a width of their own fill a narrow column, and no column is too narrow for them: a picture that is made
     smaller has smaller letters. */
  function filled(spec, chart) {
    const room = spare(chart), sized = parts(spec).filter(part => part.width > 0);
    if (!sized.length || room > -2 && (room < 2 || chart.clientWidth >= NARROW)) return false;
    for (const part of sized) part.width = Math.max(LEAST, part.width + room);
    return true;
  }

  /* Pixels of the column that the picture leaves; below zero: that it has too many. */
  function spare(chart) {
    return chart.clientWidth - Number(chart.querySelector("svg").getAttribute("width"));
  }

  /* Whether a letter of the legend lies outside the picture: how wide names are is known once they are drawn. */
  function cut(chart) {
    const picture = chart.querySelector("svg").getBoundingClientRect();
    const names = [...chart.querySelectorAll(".role-legend-label text")];
    return names.some(name => name.getBoundingClientRect().right > picture.right + 1);
  }

  async function drawOne(data) {
    const chart = document.getElementById(data.dataset.chart);
    widths[chart.id] = chart.clientWidth;
    const spec = fitted(JSON.parse(data.textContent), chart.clientWidth);
    await embed(chart, spec);
    if (filled(spec, chart)) await embed(chart, spec);
    while ((cut(chart) || spare(chart) < -1) && spec.config.legend.columns > 1) {
      spec.config.legend.columns -= 1;
      await embed(chart, spec);
    }
    if (filled(spec, chart)) await embed(chart, spec);
  }

  async function embed(chart, spec) {
    const options = { renderer: "svg", actions: false, config: colours(), tooltip: { theme: mode() } };
    const chosen = (spec.params || []).filter(param => param.bind);
    if (chosen.length) options.bind = choices(chart);
    const last = views[chart.id]; /* drawn before, at another width or in the colours of the other mode */
    for (const param of last ? chosen : []) param.value = last.signal(param.name);
    views[chart.id] = (await vegaEmbed(chart, spec, options)).view;
    /* The container says in words what is drawn; parts of a picture need no roles of their own. */
    chart.querySelectorAll("svg, svg [role]").forEach(part => part.removeAttribute("role"));
  }

  function draw() {
    document.querySelectorAll("script[data-chart]").forEach(drawOne);
  }

  /* The theme's side bars slide for a while after the window has its new size: what counts is the column. */
  function follow() {
    let waiting;
    const watch = new ResizeObserver(function () {
      clearTimeout(waiting);
      waiting = setTimeout(function () {
        for (const data of document.querySelectorAll("script[data-chart]")) {
          const chart = document.getElementById(data.dataset.chart);
          if (chart.clientWidth && Math.abs(chart.clientWidth - widths[chart.id]) > 1) drawOne(data);
        }
      }, 150);
    });
    document.querySelectorAll(".tttnn-chart").forEach(chart => watch.observe(chart));
  }

  function quoted(text) {
    return /[",\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  }

  /* The numbers behind a figure as a file. */
  function offer(details) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Download as CSV" });
    button.className = "tttnn-download";
    button.addEventListener("click", function () {
      const rows = [...details.querySelectorAll("tr")].map(row => [...row.cells].map(cell => quoted(cell.textContent)).join(","));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([rows.join("\n") + "\n"], { type: "text/csv" }));
      link.download = (details.closest("figure")?.id || "figure") + ".csv";
      link.click();
      URL.revokeObjectURL(link.href);
    });
    details.append(button);
  }

  document.addEventListener("DOMContentLoaded", function () {
    document.querySelectorAll("details.tttnn-data").forEach(offer);
    if (!document.querySelector("script[data-chart]")) return; /* most pages need no Vega */
    const script = document.createElement("script");
    script.src = vega.href;
    script.onload = function () {
      draw();
      follow();
      new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
      printed.addEventListener("change", draw);
    };
    document.head.append(script);
  });
})();
