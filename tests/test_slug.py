from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st
from refusal_bench.slug import model_slug


def test_known_ids() -> None:
    assert model_slug("meta-llama/Llama-2-7b-chat-hf") == "meta-llama--llama-2-7b-chat-hf"
    assert model_slug("planted:one") == "planted-one"
    assert model_slug("../../etc") == "--..--etc"
    assert model_slug("..") == model_slug("") == "model"


@given(st.text())
def test_every_id_is_one_visible_folder_name(model_id: str) -> None:
    slug = model_slug(model_id)
    assert slug
    assert set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert not slug.startswith(".")
    assert PurePosixPath("a", slug).parent == PurePosixPath("a")
    assert model_slug(slug) == slug
