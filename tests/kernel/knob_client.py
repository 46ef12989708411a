"""Programs that use a real client library: they connect with a setting typed in, and use the connection when told.

Each is a script for its interpreter that says {"connected": true} once it has used its connection. After each line of
its standard input it uses it again and says how that went, as tracer.lab.peers.Client wants it.
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CLIENTS = ROOT / ".clients"

_PYTHON = """
import json, select, socket, subprocess, sys, time
HOST = {host!r}
idle = None
{connect}
def say(**what):
    print(json.dumps(what), flush=True)
use()
say(connected=True)
while True:
    while idle and not select.select([sys.stdin], [], [], 0)[0]:
        idle()
    if not sys.stdin.readline():
        break
    began = time.monotonic()
    try:
        use()
        error = None
    except BaseException as failure:
        error = repr(failure)
    say(ok=error is None, seconds=time.monotonic() - began, error=error)
"""

_NODE = """
const HOST = {host};
const say = (what) => console.log(JSON.stringify(what));
process.on('uncaughtException', (error) => console.error(error));
(async () => {{
  {connect}
  await use();
  say({{connected: true}});
  require('readline').createInterface({{input: process.stdin}}).on('line', async () => {{
    const began = Date.now();
    let error = null;
    try {{ await use(); }} catch (failure) {{ error = String(failure); }}
    say({{ok: error === null, seconds: (Date.now() - began) / 1000, error}});
  }});
}})();
"""

_PHP = """
{connect}
$use();
echo json_encode(['connected' => true]), "\\n";
while (fgets(STDIN) !== false) {{
    $began = microtime(true);
    $error = null;
    try {{ $use(); }} catch (Throwable $failure) {{ $error = $failure->getMessage(); }}
    echo json_encode(['ok' => $error === null, 'seconds' => microtime(true) - $began, 'error' => $error]), "\\n";
}}
"""

# BeanShell: no compiler is needed.
_JAVA = """
import java.sql.*;
say(String what) {{ System.out.println("{{" + what + "}}"); System.out.flush(); }}
Class.forName("org.postgresql.Driver");
Class.forName("org.mariadb.jdbc.Driver");
connection = DriverManager.getConnection("{url}");
use() {{ statement = connection.createStatement(); statement.executeQuery("SELECT 1").close(); statement.close(); }}
use();
say("\\"connected\\": true");
input = new BufferedReader(new InputStreamReader(System.in));
while (input.readLine() != null) {{
    began = System.nanoTime();
    ok = true;
    try {{ use(); }} catch (Throwable failure) {{ ok = false; }}
    say("\\"ok\\": " + ok + ", \\"seconds\\": " + (System.nanoTime() - began) / 1e9);
}}
"""
_JARS = ("bsh", "postgresql", "mariadb-java-client")


def java(url: str, script: Path) -> list[str | Path]:
    """A JDBC client of that URL. script: a file to write it to."""
    script.write_text(_JAVA.format(url=url))
    jars = ":".join(f"/usr/share/java/{name}.jar" for name in _JARS)
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", jars, "bsh.Interpreter", script]


def python(connect: str, host: str) -> list[str | Path]:
    """connect defines use(), and maybe idle(), which is called over and over while nothing else is to be done."""
    return [CLIENTS / "python/bin/python", "-c", _PYTHON.format(connect=connect, host=host)]


def node(connect: str, host: str) -> list[str | Path]:
    """connect defines use, which may return a promise."""
    script = _NODE.format(connect=connect, host=json.dumps(host))
    return ["env", f"NODE_PATH={CLIENTS / 'node/node_modules'}", "node", "-e", script]


def php(connect: str, *options: str) -> list[str | Path]:
    """connect defines $use."""
    settings = [word for option in options for word in ("-d", option)]
    return ["php", *settings, "-r", _PHP.format(connect=connect)]
