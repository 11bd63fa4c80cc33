(() => {
  const frames = document.getElementById("frames");
  const slider = document.getElementById("slider");
  const moment = document.getElementById("moment");
  const play = document.getElementById("play");
  const iterations = slider.dataset.iterations.split(" ").map(Number);
  const total = Number(slider.dataset.total);
  let timer = null;

  const show = () => {
    const iteration = iterations[slider.value];
    const words = iteration === 0
      ? "at the start"
      : `after ${iteration.toLocaleString("en")} of ${total.toLocaleString("en")} iterations`;
    frames.dataset.frame = slider.value;
    moment.textContent = words;
    slider.setAttribute("aria-valuetext", words);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    play.setAttribute("aria-label", "Play from the start");
  };
  const next = () => {
    slider.value = Number(slider.value) + 1;
    show();
    if (slider.value === slider.max) stop();
  };

  slider.addEventListener("input", () => { stop(); show(); });
  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    slider.value = 0;
    show();
    timer = setInterval(next, 700);
    play.textContent = "Stop";
    play.setAttribute("aria-label", "Stop");
  });
  show();
  slider.parentElement.hidden = false;
})();
