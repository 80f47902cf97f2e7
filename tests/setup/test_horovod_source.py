"""Corrections of Horovod's source."""

import pytest

from tests.setup.test_setup import TARGET
from tools import horovod_source, horovod_target
from tools.progress import SetupError

GLOO_CONTEXT = """
void GlooContext::Initialize(const std::string& gloo_iface) {
  device_attr.iface = gloo_iface_;
}
void GlooContext::InitializeForProcessSet(const GlooContext& global_context,
                                          const std::vector<int>& registered_ranks) {
  attr device_attr;
  device_attr.iface = gloo_iface_;
}
"""
"""The lines around the fault, as in 0.28.1."""


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "horovod" / "common" / "gloo" / "gloo_context.cc"
    file.parent.mkdir(parents=True)
    file.write_text(GLOO_CONTEXT)
    return file


def test_process_sets_take_the_interface_of_the_world(source, tmp_path):
    horovod_source.correct_source(tmp_path)
    first, second = source.read_text().split("void GlooContext::InitializeForProcessSet")
    assert "global_context.gloo_iface_" not in first
    assert second.index("gloo_iface_ = global_context.gloo_iface_;") < second.index("iface = gloo_iface_;\n}")


def test_another_source_is_refused_with_the_file(source, tmp_path):
    horovod_source.correct_source(tmp_path)
    source.write_text(source.read_text().replace("device_attr.iface", "device.iface"))
    with pytest.raises(SetupError, match=r"gloo_context.cc has 0 times .*tools/horovod_source.py"):
        horovod_source.correct_source(tmp_path)


def test_wheels_without_the_correction_are_not_used(monkeypatch):
    before = TARGET.key()
    monkeypatch.setattr(horovod_source, "CORRECTIONS", ())
    monkeypatch.setattr(horovod_target, "corrections_digest", horovod_source.corrections_digest)
    assert TARGET.key() != before
