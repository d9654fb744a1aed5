import socket

import pytest

from patchrec_hf.commands.demo import main


def test_a_missing_gradio_is_named_with_its_pip_line(monkeypatch):
    monkeypatch.setattr("patchrec_hf.commands.demo.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r'ImportError: .*pip install "patchrec-hf\[demo\]"'):
        main([])


@pytest.fixture
def with_gradio(monkeypatch):
    """As if Gradio were installed: these errors come before it is imported."""
    monkeypatch.setattr("patchrec_hf.commands.demo.find_spec", lambda name: object())


@pytest.mark.usefixtures("with_gradio")
def test_a_port_in_use_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            main(["--port", str(port)])
    assert str(ended.value) == f"OSError: Port {port} of 127.0.0.1 is in use. Choose another one (--port)."


@pytest.mark.usefixtures("with_gradio")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", "0"], "`--k` must be at least 1, got 0"),
        (["--port", "0"], "between 1 and 65535, got 0"),
        (["--port", "-1"], "got -1"),
        (["--port", "65536"], "got 65536"),
    ],
)
def test_wrong_numbers_are_named(arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prot", "80"], r"^ValueError: There is no option --prot; did you mean '--port'\?$"),
        (["--port", "eighty"], "^ValueError: --port: invalid int value: 'eighty'"),
        (["one", "two"], "^ValueError: 'two' belongs to no option"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(arguments)


@pytest.mark.slow
def test_a_misspelt_checkpoint_gets_the_nearest_name(tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason='needs Gradio: pip install "patchrec-hf[demo]"')
    (tmp_path / "final").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(SystemExit, match=r"no checkpoint .*finall\. Did you mean .*final\?"):
        main([str(tmp_path / "finall"), "--port", str(port)])


def test_help_fits_one_screen(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) <= 30
