"""What the training commands have in common."""

import pytest

from endomatch_ros.fitting.command import run_training, with_kept


def kept(output):
    return [f"--of={output.name}"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--output", "a/run", "--resume", "--steps", "9"],
        ["--steps=9", "--resume", "--output=a/run"],
        ["--resume", "--output", "a/other", "--output", "a/run"],
    ],
)
def test_a_resumed_run_s_own_arguments_come_first(arguments):
    assert with_kept(arguments, kept) == ["--of=run", *arguments]


@pytest.mark.parametrize("arguments", [["--output", "run"], ["--resume"], ["--resume", "--output"], [], ["--help"]])
def test_other_arguments_stay_as_they_are(arguments):
    assert with_kept(arguments, kept) == arguments


def test_a_command_says_what_came_of_it(tmp_path, capsys, monkeypatch):
    def stopped():
        raise KeyboardInterrupt

    assert run_training("endomatch x", tmp_path, lambda: tmp_path / "model") == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'model'}\n"
    assert run_training("endomatch x", tmp_path, stopped) == 130
    assert "nothing to resume yet" in capsys.readouterr().err
    (tmp_path / "last.ckpt").touch()
    assert run_training("endomatch x", tmp_path, stopped) == 130
    assert f"endomatch x --output {tmp_path} --resume goes on" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    assert run_training("endomatch x", tmp_path, lambda: tmp_path / "model") == 0
    assert capsys.readouterr().out == ""
