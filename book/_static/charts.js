/* Draws every chart of a page with the book's own copy of Vega, in the colours of the page's mode. */
(function () {
  "use strict";
  const vega = new URL("vega.js", document.currentScript.src);
  const INK = { light: ["#1f2328", "#c8ccd1"], dark: ["#e6e6e6", "#4b5158"] };

  function colours() {
    const mode = document.documentElement.dataset.theme === "dark" ? "dark" : "light";
    const [ink, rule] = INK[mode];
    const text = { labelColor: ink, titleColor: ink };
    return {
      axis: { ...text, gridColor: rule, domainColor: rule, tickColor: rule },
      legend: { ...text, symbolBaseFillColor: ink, symbolBaseStrokeColor: ink }, header: text, title: { color: ink, subtitleColor: ink },
      text: { color: ink }, rule: { color: ink },
    };
  }

  const views = {};

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

  async function drawOne(data) {
    const chart = document.getElementById(data.dataset.chart);
    const spec = JSON.parse(data.textContent);
    const options = { renderer: "svg", actions: false, config: colours() };
    const chosen = (spec.params || []).filter(param => param.bind);
    if (chosen.length) options.bind = choices(chart);
    const last = views[chart.id]; /* drawn before, in the colours of the other mode */
    for (const param of last ? chosen : []) param.value = last.signal(param.name);
    views[chart.id] = (await vegaEmbed(chart, spec, options)).view;
  }

  function draw() {
    document.querySelectorAll("script[data-chart]").forEach(drawOne);
  }

  document.addEventListener("DOMContentLoaded", function () {
    if (!document.querySelector("script[data-chart]")) return; /* most pages need no Vega */
    const script = document.createElement("script");
    script.src = vega.href;
    script.onload = function () {
      draw();
      new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    };
    document.head.append(script);
  });
})();
