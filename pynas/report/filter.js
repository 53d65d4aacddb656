// Below parallel axes: how many architectures the marked stretches leave, and those of least score.
const plot = document.getElementById("{plot_id}"), left = document.getElementById("{plot_id}-left"), all = left.textContent;
const names = JSON.parse(left.dataset.names);
plot.on("plotly_restyle", () => {
  const axes = plot.data[0].dimensions, scores = axes[0].values;
  const marked = axes.filter(axis => axis.constraintrange).map(axis => {
    const ranges = Array.isArray(axis.constraintrange[0]) ? axis.constraintrange : [axis.constraintrange];
    return n => ranges.some(([least, most]) => least <= axis.values[n] && axis.values[n] <= most);
  });
  const kept = [...names.keys()].filter(n => marked.every(within => within(n))).sort((a, b) => scores[a] - scores[b]);
  const best = kept.slice(0, 5).map(n => `${names[n]} (${scores[n].toPrecision(6)})`).join(", ");
  left.textContent = marked.length ? `${kept.length} left; of least score: ${best || "none"}` : all;
});
