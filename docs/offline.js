// The search of pages opened from a folder, where browsers allow no workers: its script in a hidden frame.
"use strict";
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(address) {
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.ready = new Promise((done) => {
        this.frame.onload = () => {
          const inside = this.frame.contentWindow;
          inside.postMessage = (data) => this.onmessage?.({ data });
          const script = inside.document.createElement("script");
          script.onload = () => done(inside);
          script.onerror = (event) => this.onerror?.(event);
          script.src = address;
          inside.document.head.append(script);
        };
      });
      document.body.append(this.frame);
    }
    postMessage(data) { this.ready.then((inside) => inside.onmessage({ data })); }
    terminate() { this.frame.remove(); }
  };
}
