/* The calculator of "Should I use it?". Python made the coefficients (tttnn.analysis.calculator); this multiplies. */
(function () {
  "use strict";

  /* Rows of numbers, ordered by their first: on the straight line between the two around n, without the first. */
  function between(rows, n) {
    const next = Math.max(1, rows.findIndex(row => row[0] >= n));
    const [low, high] = [rows[next - 1], rows[next]];
    const share = (n - low[0]) / (high[0] - low[0]);
    return low.slice(1).map((value, i) => value + share * (high[i + 1] - value));
  }

  /* Full shards are equal; the last one may be smaller. */
  function plan(data, documents, dimension) {
    const { one, rest } = data.index[dimension];
    if (documents <= data.shard_rows) return between(one, documents);
    const full = one[one.length - 1].slice(1), count = Math.floor(documents / data.shard_rows);
    const left = documents % data.shard_rows;
    const last = left ? between(rest, left) : full.map(() => 0);
    return full.map((value, i) => count * value + last[i]);
  }

  function answer(data, job) {
    const [train, score] = data.seconds[job.device][job.model];
    const [ram, disk, build, milliseconds] = plan(data, Math.floor(job.indexed), job.dimension);
    const seconds = [job.neighbours * job.indexed_bytes * train, job.document_bytes * score, milliseconds / 1000];
    const hours = seconds.map(each => job.documents * each / 3600);
    const sum = parts => parts.reduce((one, other) => one + other);
    return {
      train_hours: hours[0], score_hours: hours[1], search_hours: hours[2], hours: sum(hours), seconds: sum(seconds),
      model_memory: data.memory[job.model], index_memory: ram, index_disk: disk,
      text_disk: job.indexed * (job.indexed_bytes + data.offset), build_hours: build,
    };
  }

  if (typeof module !== "undefined") { module.exports = { answer }; return; } /* the tests, which have no page */

  const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
  function shown(name, value) {
    if (name === "seconds") return number.format(value) + " s";
    if (name.endsWith("hours")) {
      return value >= 1 ? number.format(value) + " hours" : value >= 1 / 60 ? number.format(60 * value) + " minutes"
        : number.format(3600 * value) + " seconds";
    }
    return value >= 1e12 ? number.format(value / 1e12) + " TB" : value >= 1e9 ? number.format(value / 1e9) + " GB"
      : number.format(value / 1e6) + " MB";
  }

  function start(form) {
    const data = JSON.parse(form.querySelector("script").textContent);
    const status = form.querySelector("[role=status]");
    function update() {
      const valid = form.checkValidity();
      const job = Object.fromEntries(new FormData(form));
      for (const name of form.querySelectorAll("input")) job[name.name] = Number(job[name.name]);
      const found = valid ? answer(data, job) : {};
      for (const cell of form.querySelectorAll("output")) {
        cell.textContent = valid ? shown(cell.name, found[cell.name]) : "–";
      }
      status.textContent = valid ? "The run takes " + shown("hours", found.hours) + "."
        : "Each field needs a number of at least 1.";
    }
    form.addEventListener("input", update);
    form.addEventListener("submit", event => event.preventDefault());
    form.hidden = false;
    update();
  }

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("form.tttnn-calculator").forEach(start));
})();
