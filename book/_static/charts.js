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

  function draw() {
    for (const data of document.querySelectorAll("script[data-chart]")) {
      const options = { renderer: "svg", actions: false, config: colours() };
      vegaEmbed(document.getElementById(data.dataset.chart), JSON.parse(data.textContent), options);
    }
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
