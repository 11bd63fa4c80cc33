// A page that is opened from a disk may start no worker: there the search runs in a hidden frame.
(() => {
  class FrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = null;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      const inside = this.frame.contentWindow;
      this.ready = new Promise((resolve) => {
        inside.document.open();
        inside.document.write(
          "<script>self.importScripts = (...urls) => urls.reduce((before, url) => before.then(() => " +
            "new Promise((done) => { const one = document.createElement('script'); one.src = url; " +
            "one.onload = done; document.body.appendChild(one); })), Promise.resolve());</" +
            `script><body><script src="${url}"></` + "script></body>",
        );
        inside.postMessage = (data) => {
          const event = new MessageEvent("message", { data });
          this.dispatchEvent(event);
          if (this.onmessage) this.onmessage(event);
        };
        inside.addEventListener("load", resolve);
        inside.document.close();
      });
    }

    postMessage(data) {
      this.ready.then(() =>
        this.frame.contentWindow.dispatchEvent(
          new MessageEvent("message", { data: structuredClone(data) }),
        ),
      );
    }

    terminate() {
      this.frame.remove();
    }
  }
  window.IFrameWorker = FrameWorker;
  if (location.protocol === "file:") window.Worker = FrameWorker;
})();
