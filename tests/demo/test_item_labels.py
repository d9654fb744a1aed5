from hypothesis import given
from hypothesis import strategies as st

from patchrec_hf import Catalog, Title
from patchrec_hf.demo.item_labels import ItemLabels


def test_items_that_share_a_title_show_their_ids():
    labels = ItemLabels(Catalog.from_titles({1: "Emma", 2: "Poems", 3: "Poems"}))
    assert labels.texts == ("Emma", "Poems [2]", "Poems [3]")
    assert labels.items_of(["Poems [3]", "Emma"]) == [3, 1]


def test_text_ids_stay_texts():
    labels = ItemLabels(Catalog.from_titles({"B-17": "Emma", "B-09": "Persuasion"}))
    assert labels.items_of(["Persuasion"]) == ["B-09"]


def test_other_texts_are_titles_and_blanks_are_left_out():
    labels = ItemLabels(Catalog.from_titles({1: "Emma", 2: "Poems", 3: "Poems"}))
    assert labels.items_of(["A New Book ", " ", "", "Poems"]) == [Title("A New Book"), Title("Poems")]


def test_a_typed_title_may_have_another_case():
    labels = ItemLabels(Catalog.from_titles({1: "Emma", 2: "EMMA", 3: "The Time Machine"}))
    assert labels.items_of(["emma", "EMMA", " the time machine "]) == [1, 2, 3]


def test_a_title_that_looks_like_a_label_gets_another_label():
    labels = ItemLabels(Catalog.from_titles({2: "Poems", 3: "Poems", 4: "Poems [3]"}))
    assert len(set(labels.texts)) == 3
    assert labels.items_of(labels.texts) == [2, 3, 4]


@given(st.lists(st.sampled_from(["A", "B", "A [0]", "A [1]", "A [1] [1]"]), min_size=1, max_size=8))
def test_labels_lead_back_to_their_items(titles):
    labels = ItemLabels(Catalog.from_titles(dict(enumerate(titles))))
    assert labels.items_of(labels.texts) == list(range(len(titles)))
