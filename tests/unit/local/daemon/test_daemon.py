"""The daemon's life: started once, found again, killed, stopped without a trace, reset."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from mlops.local.state import processes
from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S, until
from tests.unit.local.conftest import Local, make_local


def test_start_is_idempotent_and_imports_little(bare_local: Local) -> None:
    first = bare_local.start()
    record = bare_local.record()
    assert bare_local.start() == first
    assert bare_local.record() == record

    command = [sys.executable, "-X", "importtime", "-m", "mlops.local.daemon", "ensure"]
    done = subprocess.run(command, cwd=ROOT, env=bare_local.base, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["env"] == first
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "mlops" in imported
    heavy = {"azure", "cryptography", "httpx", "jwt", "pydantic", "rich", "starlette", "uvicorn", "uvloop", "yaml"}
    assert imported & heavy == set(), "a command waits for this every time"


def test_those_who_start_at_once_meet_the_same_daemon(bare_local: Local) -> None:
    with ThreadPoolExecutor(4) as pool:
        proxies = list(pool.map(lambda _: bare_local.start()["HTTPS_PROXY"], range(4)))
    assert len(set(proxies)) == 1
    serving = [process for process in processes.marked(bare_local.state) if "serve" in process.cmdline()]
    assert [process.pid for process in serving] == [bare_local.record()["pid"]]


def test_a_killed_daemon_is_replaced_on_the_same_port(bare_local: Local) -> None:
    before = bare_local.start()
    pid = bare_local.record()["pid"]
    os.kill(pid, signal.SIGKILL)  # and started again at once, while it is dying
    assert bare_local.start() == before, "shells that have the variables keep working"
    assert bare_local.record()["pid"] != pid


def test_a_record_of_another_process_is_not_believed(bare_local: Local) -> None:
    bare_local.state.mkdir(parents=True)
    record = {"pid": os.getpid(), "create_time": 1.0, "proxy_port": 1, "tls_port": 1, "started": "then"}
    (bare_local.state / "daemon.json").write_text(json.dumps(record))
    assert not json.loads(bare_local.cli("status", "--json").stdout)["running"]
    bare_local.start()
    assert bare_local.record()["pid"] != os.getpid()


def test_stop_leaves_no_process_behind(own_local: Local) -> None:
    own_local.start()
    record = own_local.record()
    until(lambda: len(processes.marked(own_local.state)) > 1)
    own_local.cli("stop")
    assert not processes.alive(record["pid"], record["create_time"])
    assert processes.marked(own_local.state) == []
    assert not (own_local.state / "daemon.json").exists()
    assert own_local.cli("stop").stdout.strip() == "it was not running"


def test_a_daemon_whose_folder_was_deleted_ends_with_all_that_it_started(own_local: Local) -> None:
    own_local.start()
    record = own_local.record()
    until(lambda: len(processes.marked(own_local.state)) > 1)
    shutil.rmtree(own_local.state)
    until(lambda: not processes.alive(record["pid"], record["create_time"]), what="the daemon's end")
    until(lambda: processes.marked(own_local.state) == [], what="the end of what it started")


def test_stop_finds_what_a_killed_daemon_left(bare_local: Local) -> None:
    bare_local.start()
    orphan = subprocess.Popen(
        [sys.executable, "-c", f"import time; time.sleep({HANG_S})"],
        env={**bare_local.base, processes.MARK: str(bare_local.state)},
        start_new_session=True,
    )
    os.kill(bare_local.record()["pid"], signal.SIGKILL)
    bare_local.cli("stop")
    assert orphan.wait(2 * HANG_S) != 0


def test_two_checkouts_side_by_side(tmp_path: Path, shared_cache: Path) -> None:
    one, two = (make_local(tmp_path / name, shared_cache, MLOPS_LOCAL_PARTS="none") for name in ("one", "two"))
    try:
        first, second = one.start(), two.start()
        assert first["HTTPS_PROXY"] != second["HTTPS_PROXY"]
        assert first["AZURE_CLIENT_SECRET"] != second["AZURE_CLIENT_SECRET"]
        code = """
            import os
            from azure.core.exceptions import ClientAuthenticationError
            from azure.identity import ClientSecretCredential, DefaultAzureCredential
            DefaultAzureCredential().get_token("https://management.azure.com/.default")
            tenant, client, secret = (os.environ[name] for name in ("AZURE_TENANT_ID", "OTHER", "OTHER_SECRET"))
            other = ClientSecretCredential(tenant, client, secret)
            try:
                other.get_token("https://management.azure.com/.default")
            except ClientAuthenticationError as error:
                print("AADSTS700016" in str(error))
        """
        other = {"OTHER": second["AZURE_CLIENT_ID"] or "", "OTHER_SECRET": second["AZURE_CLIENT_SECRET"] or ""}
        assert one.run_python(code, extra=other).strip() == "True"
        one.stop()
        assert json.loads(two.cli("status", "--json").stdout)["running"]
    finally:
        one.stop()
        two.stop()


def test_secrets_are_readable_by_the_owner_alone(local: Local) -> None:
    private = ["credentials.json", "daemon.json", "tls/ca.key", "tls/leaf.key", "tls/token.key", "tls/github.key"]
    for name in private:
        assert stat.S_IMODE((local.state / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(local.state.stat().st_mode) == 0o700


def test_nothing_listens_beyond_loopback(local: Local) -> None:
    local.start()
    everything = [psutil.Process(local.record()["pid"]), *processes.marked(local.state)]
    listening = [
        connection.laddr.ip
        for process in everything
        for connection in process.connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


def test_logs_hold_no_secrets(local: Local) -> None:
    local.run_python("""
        from azure.identity import DefaultAzureCredential
        DefaultAzureCredential().get_token("https://management.azure.com/.default")
    """)
    secrets = json.loads((local.state / "credentials.json").read_text())
    written = "".join(path.read_text(errors="replace") for path in (local.state / "logs").glob("*.log*"))
    assert "/oauth2/v2.0/token" in written
    for name in ("client_secret", "account_key", "admin_token"):
        assert secrets[name] not in written
    for process in processes.marked(local.state):
        assert secrets["client_secret"] not in " ".join(process.cmdline())


def test_logs_are_shown_and_followed(bare_local: Local) -> None:
    bare_local.start()
    refused = bare_local.cli("logs", "--log", "nothing", check=False)
    assert refused.returncode == 3
    assert "there are: daemon, requests" in refused.stderr
    command = [sys.executable, "-m", "mlops", "local", "logs", "--follow", "--log", "requests"]
    with subprocess.Popen(command, cwd=ROOT, env=bare_local.base, stdout=subprocess.PIPE, text=True) as follower:
        bare_local.run_python("import requests; requests.get('https://management.azure.com/metadata/endpoints')")
        assert follower.stdout is not None
        assert "GET management.azure.com /metadata/endpoints 200" in follower.stdout.readline()
        follower.send_signal(signal.SIGINT)
        assert follower.wait(HANG_S) == 130
    (line,) = json.loads(bare_local.cli("logs", "--json", "--log", "requests", "--lines", "1").stdout)
    assert "/metadata/endpoints" in line


def test_reset_deletes_the_state_and_asks_first(bare_local: Local) -> None:
    before = bare_local.start()
    refused = bare_local.cli("reset", check=False)
    assert refused.returncode == 3
    assert bare_local.state.is_dir()
    bare_local.cli("reset", "--yes")
    assert not bare_local.state.exists()
    after = bare_local.start()
    assert after["AZURE_CLIENT_SECRET"] != before["AZURE_CLIENT_SECRET"]


@pytest.mark.parametrize("command", [["local", "start"], ["endpoint", "list"]])
def test_a_variable_that_cannot_be_used_is_wrong_use(command: list[str], tmp_path: Path, shared_cache: Path) -> None:
    broken = make_local(tmp_path / "home", shared_cache, MLOPS_LOCAL_LATENCY_S="soon")
    done = subprocess.run(
        [sys.executable, "-m", "mlops", *command],
        cwd=ROOT,
        env=broken.base,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-2:] == [
        "✕ MLOPS_LOCAL_LATENCY_S is 'soon': give seconds, 0 or more",
        "→ correct the variable, or unset it",
    ]


def test_a_daemon_that_cannot_start_says_why(tmp_path: Path, shared_cache: Path) -> None:
    broken = make_local(tmp_path / "home", shared_cache)
    (tmp_path / "home" / "local" / "daemon.lock").mkdir(parents=True)
    done = broken.cli("start", check=False)
    assert done.returncode == 3
    assert "✕ the local workspace did not start" in done.stderr
    assert "IsADirectoryError" in done.stderr


def test_a_state_folder_that_cannot_be_written_is_named(tmp_path: Path, shared_cache: Path) -> None:
    (tmp_path / "home").write_text("a file")
    done = make_local(tmp_path / "home", shared_cache).cli("start", check=False)
    assert done.returncode == 3
    assert f"'{tmp_path}/home/local' cannot be written" in done.stderr.replace("\n", "")


def test_a_shell_with_half_of_the_variables_leads_in_no_circle(bare_local: Local) -> None:
    proxy = bare_local.start()["HTTPS_PROXY"]
    bare_local.stop()
    bare_local.base["HTTPS_PROXY"] = bare_local.base["https_proxy"] = proxy or ""
    assert bare_local.start()["HTTPS_PROXY"] == proxy
    code = f"""
        import requests
        try:
            requests.get("https://localhost:9/", timeout={HANG_S})
        except requests.exceptions.ProxyError as error:
            print("502" in str(error))
    """
    assert bare_local.run_python(code, extra={"NO_PROXY": "", "no_proxy": ""}).strip() == "True"


@pytest.mark.parametrize("form", ["shell", "json"])
def test_env_sets_and_takes_away(local: Local, form: str) -> None:
    text = local.cli("env", "--format", form).stdout
    inherited = {
        **local.base,
        "https_proxy": "http://elsewhere:1",
        "NO_PROXY": ".azure.com",
        "MSI_ENDPOINT": "http://x",
    }
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    if form == "shell":
        shell = f"eval {shlex.quote(text)}; {shlex.quote(sys.executable)} -c {shlex.quote(show)}"
        done = subprocess.run(["sh", "-c", shell], env=inherited, capture_output=True, text=True, check=True)
        environment = json.loads(done.stdout)
    else:
        environment = {**inherited, **json.loads(text)}
        environment = {name: value for name, value in environment.items() if value is not None}
    assert environment["https_proxy"] == environment["HTTPS_PROXY"] == local.start()["HTTPS_PROXY"]
    assert environment["NO_PROXY"] == environment["no_proxy"] == "127.0.0.1,localhost,::1"
    assert "MSI_ENDPOINT" not in environment
    assert Path(environment["REQUESTS_CA_BUNDLE"]).is_file()


def test_env_for_github_gives_inherited_variables_harmless_values(local: Local) -> None:
    local.base["AZURE_AUTHORITY_HOST"] = "login.elsewhere.example"
    try:
        lines = local.cli("env", "--format", "github").stdout.splitlines()
    finally:
        del local.base["AZURE_AUTHORITY_HOST"]
    assert "AZURE_AUTHORITY_HOST=login.microsoftonline.com" in lines
    assert not any(line.startswith("unset") or "=None" in line for line in lines)


def test_from_config_finds_the_file(local: Local, tmp_path: Path) -> None:
    local.cli("start", "--config", str(tmp_path))
    code = f"""
        from azure.ai.ml import MLClient
        from azure.identity import DefaultAzureCredential
        print(MLClient.from_config(DefaultAzureCredential(), path={str(tmp_path)!r}).workspace_name)
    """
    assert local.run_python(code).strip() == "local"
    (tmp_path / "config.json").write_text('{"subscription_id": "real"}')
    done = local.cli("start", "--config", str(tmp_path), check=False)
    assert done.returncode == 3
    assert "names another workspace" in done.stderr


def test_help_needs_no_heavy_import() -> None:
    heavy = ("azure", "uvicorn", "starlette", "psutil")
    code = f"import sys, mlops.cli.local; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
