// A page that talks to a hub, as SignalR's own client does: called with the
// hub's URL, the Cookie header, the page's origin and the name of a transport.
// It prints what it saw as JSON.
import * as signalR from "@microsoft/signalr";

const [url, cookie, origin, transport] = process.argv.slice(2);

const connection = new signalR.HubConnectionBuilder()
  .withUrl(url, {
    transport: signalR.HttpTransportType[transport],
    // A token that the page has from somewhere: it must not get through.
    accessTokenFactory: () => "from-the-browser",
    headers: { Cookie: cookie, Origin: origin, "X-CSRF": "1" },
  })
  .configureLogging(signalR.LogLevel.Error)
  .build();

const saw = { received: [], streamed: [] };
const received = new Promise((resolve) =>
  connection.on("received", (text) => {
    saw.received.push(text);
    if (saw.received.length === 2) resolve();
  }));
const closed = new Promise((resolve) => connection.onclose(resolve));

await connection.start();
saw.echo = await connection.invoke("Echo", "h\u00e9llo " + "x".repeat(100000));
await connection.send("Broadcast", "one");
await connection.send("Broadcast", "two");
await received;
await new Promise((complete, error) =>
  connection.stream("Count", 5).subscribe({ next: (n) => saw.streamed.push(n), complete, error }));
try {
  await connection.invoke("Fail");
} catch (e) {
  saw.failure = e.message;
}
await connection.stop();
await closed;
saw.echo = [saw.echo.slice(0, 5), saw.echo.length];
console.log(JSON.stringify(saw));
process.exit(0);
