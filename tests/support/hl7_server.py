"""An HL7 receiver in a process of its own, made of python-hl7, that answers as it is told.

`python -m tests.support.hl7_server PORT FOLDER [CERT KEY]`: FOLDER/answer says how, such as
`AA`, `AE 207`, `hang`; FOLDER/received gets what came, as JSON strings, one a line.
"""

import contextlib
import json
import socketserver
import ssl
import sys
import time
from pathlib import Path

import hl7


class Handler(socketserver.StreamRequestHandler):
    server: "Server"

    def handle(self) -> None:
        while (block := self._block()) is not None:
            text = block.decode()
            with (self.server.folder / "received").open("a") as file:
                file.write(json.dumps(text) + "\n")
            how, _, error = (self.server.folder / "answer").read_text().partition(" ")
            if how == "close":
                return
            if how == "hang":
                time.sleep(60)
            self._answer(how, error, hl7.parse(text))

    def _block(self) -> bytes | None:
        held = b""
        while not held.endswith(b"\x1c\r"):
            byte = self.rfile.read(1)
            if not byte:
                return None
            held += byte
        return held[1:-2]

    def _answer(self, how: str, error: str, message: hl7.Message) -> None:
        ack = message.create_ack(how if len(how) == 2 else "AA")
        text = str(ack)
        if how == "other":
            text = text.replace(str(message["MSH.F10"]), "SOMEBODYELSE")
        if error:
            text += f"ERR|||{error}^said of Canary^HL70357|E\r"
        data = b"\x0b" + text.encode() + b"\x1c\r"
        if how == "half":
            self.wfile.write(data[: len(data) // 2])
            return
        if how == "twice":
            data += data
        if how == "garbage":
            data = b"\x0bHTTP/1.1 400 Bad Request\r\x1c\r"
        if how == "endless":
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"\x0b" + b"A" * 4096)
        if how == "drip":
            for byte in data:
                self.wfile.write(bytes([byte]))
                time.sleep(0.3)
            return
        self.wfile.write(data)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, folder: Path, tls: tuple[str, ...]) -> None:
        self.folder = folder
        super().__init__(("127.0.0.1", port), Handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.socket = context.wrap_socket(self.socket, server_side=True)


if __name__ == "__main__":
    Server(int(sys.argv[1]), Path(sys.argv[2]), tuple(sys.argv[3:])).serve_forever()
