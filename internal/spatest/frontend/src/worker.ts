self.onmessage = ({ data }) => {
  self.postMessage(`worked ${data * 7}`);
};
