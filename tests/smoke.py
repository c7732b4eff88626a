"""One conversation end to end, on the repository's own home: `make smoke`."""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent
QUESTION = "Use get_weather for Paris"


def main() -> None:
    """Serve on a free port with the demo upstream, ask once, and check the answer."""
    command = [str(Path(sys.executable).with_name("agent-gateway")), "serve", "--home", str(ROOT), "--port", "0"]
    with tempfile.TemporaryDirectory() as state:
        env = os.environ | {
            "GATEWAY_STATE_DIR": state,
            "GATEWAY_DEFAULT_UPSTREAM": "demo",
            "GATEWAY_LOG_LEVEL": "warning",
        }
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        try:
            assert server.stdout is not None
            for line in server.stdout:
                sys.stdout.write(line)
                if line.startswith("curl"):
                    break
            _ask((Path(state) / "address").read_text().strip(), (Path(state) / "key").read_text().strip())
        finally:
            server.terminate()
            server.wait()


def _ask(url: str, key: str) -> None:
    body = {"model": "default/weather", "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    request = urllib.request.Request(  # noqa: S310 - our own address
        f"{url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    text, done = "", False
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own address
        for line in answer:
            event = line.decode().removeprefix("data: ").strip()
            done = done or event == "[DONE]"
            if event.startswith("{"):
                text += json.loads(event)["choices"][0]["delta"].get("content", "")
    sys.stdout.write(f"\n> {QUESTION}\n{text}\n")
    if "18 degrees and sunny" not in text or not done:
        sys.exit("smoke: the answer is not whole")
    sys.stdout.write("smoke: ok\n")


if __name__ == "__main__":
    main()
