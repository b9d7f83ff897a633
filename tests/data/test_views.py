import json
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.data.dataset import PreferenceDataset, open_dataset
from palate.data.importing import import_pairs
from palate.data.views import copeland_ranks, liked_images, ranked_lists
from palate.errors import PalateError

NO_VOTE = math.nan
ENDINGS = ("", " tied", " without a human vote", " lacking an image")  # of the counts of pairs and of single images


@pytest.fixture
def compared(tmp_path, picture):
    """Make a dataset of rows (two letters, or one; human vote; prompt; group). Equal letters are equal pictures."""

    def make(*rows, numbered=True):
        dataset = PreferenceDataset.create(tmp_path / str(len(list(tmp_path.iterdir()))), "prefs")
        filled = [(*row, "a cat", None)[:4] if len(row) == 2 else (*row, None)[:4] for row in rows]
        image = [picture(ord(letter)) for letter in map(chr, range(128))]
        dataset.add_pairs(
            {
                "pair_id": f"{i * numbered}-{letters}",
                "prompt": prompt,
                "group_id": group,
                **{f"image_{side}": image[ord(letter)] for side, letter in enumerate(letters)},
            }
            for i, (letters, _, prompt, group) in enumerate(filled)
        )
        return dataset, np.array([vote for _, vote, _, _ in filled], dtype=float)

    return make


def letter(image):
    """The letter of a picture in the datasets of `compared`."""
    pair_id, side = image
    return pair_id.split("-")[1][side]


def liked_by_letter(dataset, human, **options):
    found, counts = liked_images(dataset, human, **options)
    assert len(found.image) == len(found.prompt) == len(found.liked) == counts["images"]
    names = [(prompt, letter(image)) for image, prompt in zip(found.image, found.prompt, strict=True)]
    assert len(set(names)) == len(names)
    return dict(zip(names, found.liked.tolist(), strict=True)), counts


def as_text(lists):
    """Every list as its letters from the best to the worst, '=' between equals."""
    out = []
    for images, rank in zip(lists.images, lists.rank, strict=True):
        assert rank[0] == 0 and all(0 <= b - a <= 1 for a, b in zip(rank, rank[1:], strict=False))
        parts = [("=" if i and rank[i] == rank[i - 1] else "") + letter(image) for i, image in enumerate(images)]
        out.append("".join(parts))
    return out


def test_the_winner_is_liked_and_the_loser_is_not_and_ties_are_counted(compared):
    dataset, human = compared(("AB", 1), ("CD", 0), ("EF", 0.5), ("GH", NO_VOTE), ("IJ", 0.75))
    found, counts = liked_by_letter(dataset, human)
    expected = {"A": 1, "B": 0, "C": 0, "D": 1, "I": 1, "J": 0}
    assert found == {("a cat", name): value for name, value in expected.items()}
    assert (counts["pairs"], counts["pairs tied"], counts["pairs without a human vote"]) == (3, 1, 1)
    assert (counts["images liked"], counts["images disliked"]) == (3, 3)


def test_single_images_are_liked_as_far_as_their_voters_do(compared):
    dataset, human = compared(("A", 1), ("B", 0), ("C", 0.75), ("D", 0.5), ("E", NO_VOTE), ("FG", 1))
    found, counts = liked_by_letter(dataset, human)
    assert {name: value for (_, name), value in found.items()} == {"A": 1, "B": 0, "C": 0.75, "F": 1, "G": 0}
    assert (counts["single images"], counts["single images tied"], counts["single images without a human vote"]) == (
        3, 1, 1,
    )  # fmt: skip


def test_an_image_that_both_won_and_lost_appears_once_and_is_liked(compared):
    dataset, human = compared(("AB", 1), ("CA", 1), ("DB", 1), ("B", 0.25), ("A", 0), ("AB", 1, "a dog"))
    found, counts = liked_by_letter(dataset, human)
    assert found == {
        ("a cat", "A"): 1, ("a cat", "B"): 0.25, ("a cat", "C"): 1, ("a cat", "D"): 1, ("a dog", "A"): 1, ("a dog", "B"): 0,
    }  # fmt: skip
    assert counts["images that won and lost"] == 1 and counts["images judged more than once"] == 4


def test_exchanging_the_images_of_every_pair_changes_nothing(compared):
    rows = [("AB", 1.0), ("CA", 0.7), ("DE", 0.2), ("EF", 0.5), ("BC", 0.0)]
    swapped = [(letters[::-1], 1 - vote) for letters, vote in rows]
    (first, votes), (second, mirrored) = compared(*rows), compared(*swapped)
    assert liked_by_letter(first, votes)[0] == liked_by_letter(second, mirrored)[0]
    assert as_text(ranked_lists(first, votes)[0]) == as_text(ranked_lists(second, mirrored)[0])


def test_a_pair_of_one_image_twice_says_nothing(compared):
    dataset, human = compared(("AA", 1), ("BC", 1))
    found, counts = liked_by_letter(dataset, human)
    assert {name for _, name in found} == {"B", "C"} and counts["pairs of one image twice"] == 1
    lists, counts = ranked_lists(dataset, human)
    assert as_text(lists) == ["BC"] and counts["pairs of one image twice"] == 1


def test_an_image_is_taken_from_a_row_that_can_be_read_and_its_votes_all_count(compared):
    dataset, human = compared(("AB", 1), ("CA", 1), ("BC", NO_VOTE), ("DB", 1))
    found, counts = liked_by_letter(dataset, human, readable={"1-CA", "2-BC"})
    assert {name: value for (_, name), value in found.items()} == {"A": 1, "B": 0, "C": 1}
    images = liked_images(dataset, human, readable={"1-CA", "2-BC"})[0].image
    assert {pair_id for pair_id, _ in images} == {"1-CA", "2-BC"} and counts["images that cannot be read"] == 1
    lists, counts = ranked_lists(dataset, human, readable={"1-CA", "2-BC"})
    assert as_text(lists) == ["CAB"] and counts["images that cannot be read"] == 1


def test_a_pair_alone_is_a_list_of_two_with_the_id_of_the_pair(compared):
    dataset, human = compared(("AB", 0), ("CD", 1, "a dog"), ("EF", 0.5), ("GH", NO_VOTE), ("I", 1))
    lists, counts = ranked_lists(dataset, human)
    assert lists.list_id == ["0-AB", "1-CD"] and lists.prompt == ["a cat", "a dog"]
    assert lists.images == [[("0-AB", 1), ("0-AB", 0)], [("1-CD", 0), ("1-CD", 1)]] and lists.rank == [[0, 1], [0, 1]]
    assert {name: counts[name] for name in ("pairs", "pairs tied", "pairs without a human vote", "lists of two")} == {
        "pairs": 2, "pairs tied": 1, "pairs without a human vote": 1, "lists of two": 2,
    }  # fmt: skip
    assert counts["single images left out"] == 1 and counts["images without a decided vote"] == 4


def test_pairs_that_share_images_form_one_list_per_prompt_and_group(compared):
    dataset, human = compared(
        ("AB", 1), ("BC", 1), ("AB", 1, "a dog"), ("BC", 0, "a dog"),
        ("AB", 0, "a cat", "g"), ("CB", 0, "a cat", "g"), ("AC", 0, "a cat", "g"), ("XY", 1, "a cat", "g"),
    )  # fmt: skip
    lists, _ = ranked_lists(dataset, human)
    # of group g, X and Y were never compared with the others: a list of their own
    assert as_text(lists) == ["ABC", "A=CB", "BCA", "XY"]
    assert lists.prompt == ["a cat", "a dog", "a cat", "a cat"] and len(set(lists.list_id)) == 4


def test_a_list_is_made_of_its_own_pairs_although_an_earlier_row_has_the_image(compared):
    dataset, human = compared(("XA", NO_VOTE), ("AB", 1))
    assert ranked_lists(dataset, human)[0].images == [[("1-AB", 0), ("1-AB", 1)]]


def test_only_decided_votes_connect(compared):
    dataset, human = compared(("AB", 1), ("BC", NO_VOTE), ("BD", 0.5), ("CE", 1), ("FG", NO_VOTE))
    lists, counts = ranked_lists(dataset, human)
    assert as_text(lists) == ["AB", "CE"]
    assert counts["images without a decided vote"] == 3  # D, F and G


def test_votes_that_cancel_out_are_no_order(compared):
    dataset, human = compared(("AB", 1), ("BA", 1), ("CD", 1), ("DE", 1), ("EC", 1))
    lists, counts = ranked_lists(dataset, human)
    assert not lists.list_id and counts["lists without an order"] == 2 and counts["lists"] == 0
    assert counts["comparisons that contradict the order"] == 3


def test_of_several_votes_on_two_images_the_balance_counts(compared):
    dataset, human = compared(("AB", 0.6), ("BA", 0.9), ("AB", 0.2), ("BC", 1))
    assert as_text(ranked_lists(dataset, human)[0]) == ["BA=C"]  # A has 0.2 - 0.8 - 0.6


def test_the_name_of_a_list_does_not_depend_on_the_order_of_the_rows(compared):
    rows = [("AB", 1), ("BC", 1), ("DE", 1, "a dog"), ("EF", 1, "a dog"), ("AD", 1)]
    shuffled = random.Random(1).sample(rows, len(rows))
    found = [ranked_lists(*compared(*some, numbered=False))[0] for some in (rows, shuffled)]
    assert set(found[0].list_id) == set(found[1].list_id) and len(found[0].list_id) == 2
    assert sorted(as_text(found[0])) == sorted(as_text(found[1]))


@pytest.mark.parametrize(("length", "expected"), [(3, ["ADG", "BE", "CF"]), (7, ["ABCDEFG"]), (2, ["AE", "BF", "CG"])])
def test_a_long_list_is_split_into_parts_that_span_it(compared, length, expected):
    dataset, human = compared(*((f"{a}{b}", 1) for a, b in zip("ABCDEF", "BCDEFG", strict=True)))
    lists, counts = ranked_lists(dataset, human, length=length)
    assert as_text(lists) == expected and len(set(lists.list_id)) == len(expected)
    assert counts["images left over"] == 7 - sum(map(len, expected)) and counts["lists split"] == (length < 7)


def test_equal_images_are_never_a_part_of_their_own(compared):
    dataset, human = compared(("AB", 1), ("AC", 1), ("AD", 1))
    lists, counts = ranked_lists(dataset, human, length=2)
    assert as_text(lists) == ["AC"] and counts["images left over"] == 2
    assert as_text(ranked_lists(dataset, human)[0]) == ["AB=C=D"]


def test_human_votes_that_do_not_fit_and_lists_of_one_are_refused(compared):
    dataset, human = compared(("AB", 1), ("CD", 0))
    for wrong in (human[:1], np.array([0.5, 1.2])):
        for view in (liked_images, ranked_lists):
            with pytest.raises(PalateError, match="2 pairs: give one mean vote"):
                view(dataset, wrong)
    with pytest.raises(PalateError, match="a list needs two"):
        ranked_lists(dataset, human, length=1)


def test_views_of_nothing_are_empty(compared):
    dataset, human = compared(("AB", NO_VOTE), ("C", NO_VOTE))
    assert not liked_images(dataset, human)[0].image and not ranked_lists(dataset, human)[0].images


@pytest.mark.parametrize("seed", range(3))
def test_every_pair_and_every_image_is_accounted_for(compared, seed):
    rng = random.Random(seed)
    rows = []
    for _ in range(40):
        letters = "".join(rng.choices("ABCDEFGH", k=rng.choice((1, 2, 2, 2))))
        rows.append(
            (letters, rng.choice((0, 0.5, 1, NO_VOTE)), rng.choice(("a cat", "a dog")), rng.choice((None, "g")))
        )
    dataset, human = compared(*rows)
    _, counts = liked_images(dataset, human)
    reasons = ("pairs of one image twice", *(f"{a}{b}" for a in ("pairs", "single images") for b in ENDINGS))
    assert sum(counts[name] for name in reasons) == 40
    lists, counts = ranked_lists(dataset, human, length=3)
    assert sum(counts[name] for name in (*reasons, "single images left out")) == 40
    shown = Counter(letter(image) for images in lists.images for image in images)
    assert counts["images"] == shown.total() and max(map(len, lists.images)) <= 3


def net_of(n, *preferred):
    net = np.zeros((n, n))
    for a, b in preferred:
        net[a, b] += 1
        net[b, a] -= 1
    return net


def test_a_chain_of_comparisons_is_a_complete_order():
    # plain Copeland scores are 1, 0, 0, 0, -1: the middle would be tied
    assert copeland_ranks(net_of(5, (0, 1), (1, 2), (2, 3), (3, 4))).tolist() == [0, 1, 2, 3, 4]


def test_the_images_of_a_cycle_are_tied_or_ordered_by_direct_comparisons():
    assert copeland_ranks(net_of(4, (0, 1), (1, 2), (2, 0), (0, 3))).tolist() == [0, 0, 0, 1]
    assert copeland_ranks(net_of(4, (0, 1), (1, 2), (2, 3), (3, 0), (0, 2))).tolist() == [0, 1, 2, 1]


@given(st.integers(2, 8), st.randoms(use_true_random=False), st.floats(0.1, 1))
def test_every_comparison_without_a_cycle_is_respected(n, rng, share):
    order = rng.sample(range(n), n)
    pairs = [(order[i], order[j]) for i in range(n) for j in range(i + 1, n) if rng.random() < share]
    rank = copeland_ranks(net_of(n, *pairs))
    assert all(rank[a] < rank[b] for a, b in pairs)


@given(st.integers(2, 7), st.randoms(use_true_random=False))
def test_complete_comparisons_have_the_plain_copeland_order(n, rng):
    net = net_of(n, *((i, j) if rng.random() < 0.5 else (j, i) for i in range(n) for j in range(i)))
    plain = np.sign(net).sum(axis=1)
    rank = copeland_ranks(net)
    assert all((rank[i] < rank[j]) == (plain[i] > plain[j]) for i in range(n) for j in range(n))


@given(st.integers(2, 7), st.randoms(use_true_random=False))
def test_ranks_follow_the_images_and_turn_round_with_the_votes(n, rng):
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j and rng.random() < 0.4]
    net = net_of(n, *pairs)
    rank = copeland_ranks(net)
    moved = rng.sample(range(n), n)
    np.testing.assert_array_equal(copeland_ranks(net[np.ix_(moved, moved)]), rank[moved])
    np.testing.assert_array_equal(copeland_ranks(-net), rank.max() - rank)
    assert set(rank) == set(range(rank.max() + 1))


@pytest.mark.parametrize("inside", [True, False])
def test_lists_of_pictures_by_path_are_the_same_wherever_the_folder_is(inside, tmp_path):
    """Inside: dataset and pictures in one folder that is moved; else pictures are imported from one place or the other."""
    entry = {"prompt": "a cat", "generations": ["a.png", "b.png", "c.png"], "ranking": [2, 1, 3]}
    found = []
    for name in ("here", "a longer name"):
        folder = tmp_path / name
        if not (inside and found):
            folder.mkdir()
            (folder / "ranked.json").write_text(json.dumps([entry, entry | {"prompt": "a dog"}]))
            import_pairs("rankings", [folder / "ranked.json"], folder / "prefs")
        else:
            (tmp_path / "here").rename(folder)
        dataset = open_dataset(folder / "prefs")
        human = dataset.votes()
        by_pair = dict(zip(human["pair_id"].to_pylist(), human["choice"].to_pylist(), strict=True))
        means = np.array(
            [by_pair[pair_id] == "0" for pair_id in dataset.pairs(["pair_id"])["pair_id"].to_pylist()], float
        )
        found.append(ranked_lists(dataset, means)[0])
    assert found[0] == found[1] and len(found[0].list_id) == 2 and [len(r) for r in found[0].rank] == [3, 3]
