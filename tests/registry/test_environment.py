"""Which commit a run names."""

import subprocess

import pytest

from pipelines.registry.runs.environment import describe_driver, read_git_tags


def git(folder, *arguments):
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "code.py").write_text("one\n")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_commit_of_a_checkout_says_whether_files_differ(checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    assert read_git_tags(checkout) == {"mlflow.source.git.commit": commit}
    (checkout / "code.py").write_text("two\n")
    assert read_git_tags(checkout) == {"mlflow.source.git.commit": f"{commit}-dirty"}


def test_commit_of_a_surrounding_project_is_ignored(checkout, monkeypatch):
    installed = checkout / ".venv" / "lib" / "site-packages"
    installed.mkdir(parents=True)
    assert read_git_tags(installed) == {}
    monkeypatch.setenv("GIT_DIR", str(checkout / ".git"))  # as in a hook of that project
    assert read_git_tags(installed) == {}


def test_of_two_copies_the_imported_package_is_recorded(tmp_path, monkeypatch):
    for place, version in (("notebook", "3.12.0"), ("platform", "3.8.1")):
        folder = tmp_path / place / f"mlflow-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Name: mlflow\nVersion: {version}\n", encoding="ascii")
    monkeypatch.setattr("sys.path", [str(tmp_path / "notebook"), str(tmp_path / "platform")])
    facts, requirements = describe_driver()
    assert facts["packages"] == {"mlflow": "3.12.0"}
    assert requirements == "mlflow==3.12.0\n"
