"""ScoreTable: CSV there and back, the table a person reads, and files that are not one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drexcache.errors import DrexcacheError
from drexcache.scores.table import Score, ScoreTable

ROW = Score("ridge", "art", "art", "in-domain", 42, 0, "", "pearson", False, 0.81234567890123, 0.7, 0.9, 60, 1.25)
CROSS = replace(ROW, test="maps", kind="cross", value=0.5, low=0.3, high=0.7, note="art: 2 copies | maps: few")
TABLE = ScoreTable([
    ROW,
    replace(ROW, regressor="mean", value=None, low=None, high=None, seconds=None),
    CROSS,
    replace(CROSS, metric="rmse", value=0.2, low=0.15, high=0.25),
    replace(CROSS, metric="rmse", calibrated=True, value=0.1, low=0.08, high=0.12),
])  # fmt: skip


def test_csv_there_and_back(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "scores.csv")
    lines = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert lines[:3] == [
        "regressor,train,test,kind,seed,repeat,group,metric,calibrated,value,low,high,n,seconds,note,ceiling",
        "ridge,art,art,in-domain,42,0,,pearson,False,0.81234567890123,0.7,0.9,60,1.25,,",
        "mean,art,art,in-domain,42,0,,pearson,False,,,,60,,,",
    ]
    assert ScoreTable.read_csv(tmp_path / "scores.csv") == TABLE


def test_names_with_commas_quotes_and_other_scripts(tmp_path: Path) -> None:
    odd = ScoreTable([replace(ROW, train='a, "b"', test="絵\nx", group="é|ü")])
    odd.to_csv(tmp_path / "odd.csv")
    assert ScoreTable.read_csv(tmp_path / "odd.csv") == odd


def test_select_and_notes() -> None:
    assert TABLE.select(metric="rmse", calibrated=True).rows == [TABLE.rows[4]]
    assert TABLE.notes == ["art: 2 copies", "maps: few"]


def change(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",calibrated,value", ",value", "no column calibrated; it has: regressor, train"),
        ("0.81234567890123", "high", "line 2: value should be a number, found 'high'"),
        ("0.81234567890123", "nan", "line 2: value should be a number, found 'nan'"),
        ("0.81234567890123", "3_5", "line 2: value should be a number, found '3_5'"),
        ("0.81234567890123", "٣", "line 2: value should be a number, found '٣'"),
        (",60,1.25", ",6_0,1.25", "line 2: n should be a whole number, found '6_0'"),
        (",60,1.25", ",60.5,1.25", "line 2: n should be a whole number, found '60.5'"),
        ("False", "no", "line 2: calibrated should be True or False, found 'no'"),
        ("1.25,,", "1.25,,,surplus", "line 2 has more cells than the header, 16"),
        ("0.9,60,1.25,,", "0.9", "line 2: n should be a whole number, found ''"),
        ("ridge", '"ridge', "not a CSV file"),
    ],
)
def test_a_malformed_csv_is_one_sentence(tmp_path: Path, old: str, new: str, message: str) -> None:
    TABLE.to_csv(tmp_path / "scores.csv")
    text = (tmp_path / "scores.csv").read_text(encoding="utf-8")
    (tmp_path / "scores.csv").write_text(change(text, old, new), encoding="utf-8")
    with pytest.raises(DrexcacheError, match=message) as caught:
        ScoreTable.read_csv(tmp_path / "scores.csv")
    assert "scores.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_csv(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "picture.csv").write_bytes(bytes(range(256)))
    for name, message in (
        ("none.csv", "No such file"), ("empty.csv", "it has: nothing"), ("picture.csv", "not a CSV file"),
        (".", "Is a directory"),
    ):  # fmt: skip
        with pytest.raises(DrexcacheError, match=message):
            ScoreTable.read_csv(tmp_path / name)
    with pytest.raises(DrexcacheError, match="cannot be written"):
        TABLE.to_csv(tmp_path / "empty.csv" / "scores.csv")


def test_the_table_a_person_reads() -> None:
    assert (
        TABLE.markdown()
        == """\
**Inside a dataset (out of fold): Pearson's r [95% interval]**

| regressor   | art                              |
|-------------|----------------------------------|
| ridge       | 0.812 [0.700, 0.900]             |
| mean        | undefined (constant predictions) |

**ridge, trained on (line) → tested on (column): Pearson's r [95% interval]**

| train → test   | art                  | maps                 |
|----------------|----------------------|----------------------|
| art            | 0.812 [0.700, 0.900] | 0.500 [0.300, 0.700] |

**All metrics**, errors on ratings put on [0, 1]; in brackets after a linear calibration fitted on \
the other half of the test images

| regressor   | train → test    | n   | Pearson's r   | RMSE          | training (s)   |
|-------------|-----------------|-----|---------------|---------------|----------------|
| ridge       | art (in-domain) | 60  | 0.812         |               | 1.2            |
| ridge       | art → maps      | 60  | 0.500         | 0.200 (0.100) | 1.2            |
| mean        | art (in-domain) | 60  | undefined     |               |                |

**Notes**

- art: 2 copies
- maps: few
"""
    )


def test_more_datasets_than_regressors_stand_on_the_lines() -> None:
    table = ScoreTable(
        [replace(ROW, train=name, test=name, value=value) for name, value in (("art", 0.8), ("maps", 0.6))]
    )
    assert table.markdown().split("\n\n")[1].splitlines() == [
        "| dataset   | ridge                |",
        "|-----------|----------------------|",
        "| art       | 0.800 [0.700, 0.900] |",
        "| maps      | 0.600 [0.700, 0.900] |",
    ]


def test_seeds_and_repeats_are_averaged_and_said() -> None:
    table = ScoreTable([
        replace(ROW, seed=seed, repeat=repeat, value=value, low=value - 0.1, high=value + 0.1)
        for seed, repeat, value in ((1, 0, 0.7), (1, 1, 0.8), (2, 0, 0.8), (2, 1, 0.9))
    ])  # fmt: skip
    text = table.markdown()
    assert "**, mean over 2 seeds x 2 repeats" in text
    reach = np.sqrt(0.1**2 + (1.96 * np.std([0.75, 0.85], ddof=1)) ** 2 / 2)  # over images and over seeds
    assert f"| art       | 0.800 [{0.8 - reach:.3f}, {0.8 + reach:.3f}] |" in text


def test_groups_and_names_that_would_break_the_table() -> None:
    table = ScoreTable([ROW, replace(ROW, group="a|b", value=-0.25, low=-0.5, high=0.1, n=12)])
    assert table.markdown().split("**By group")[1].splitlines()[2:] == [
        "| train → test    | group   | n   | ridge                  |",
        "|-----------------|---------|-----|------------------------|",
        "| art (in-domain) | all     | 60  | 0.812 [0.700, 0.900]   |",
        "| art (in-domain) | a\\|b    | 12  | -0.250 [-0.500, 0.100] |",
    ]


def test_nothing_to_show() -> None:
    with pytest.raises(DrexcacheError, match="no scores to show"):
        ScoreTable().markdown()
    with pytest.raises(DrexcacheError, match="no scores of metric 'auc'; there are: pearson, rmse"):
        TABLE.markdown("auc")


def test_scores_of_earlier_versions_have_no_ceiling(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "scores.csv")
    lines = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert all(line.endswith((",", "ceiling")) for line in lines)
    older = [line.removesuffix(",ceiling").removesuffix(",") for line in lines]
    (tmp_path / "older.csv").write_text("\n".join(older) + "\n", encoding="utf-8")
    assert ScoreTable.read_csv(tmp_path / "older.csv") == TABLE


def test_shares_of_the_noise_ceiling(tmp_path: Path) -> None:
    known = replace(ROW, value=0.72, low=0.63, high=0.81, ceiling=0.9)
    table = ScoreTable([known, replace(known, regressor="mean", value=None, low=None, high=None), CROSS])
    table.to_csv(tmp_path / "scores.csv")
    assert ScoreTable.read_csv(tmp_path / "scores.csv") == table
    assert table.markdown().split("**Share of the noise ceiling")[1].splitlines()[2:5] == [
        "| train → test    | ceiling   | ridge          | mean                             |",
        "|-----------------|-----------|----------------|----------------------------------|",
        "| art (in-domain) | 0.900     | 80% [70%, 90%] | undefined (constant predictions) |",
    ]
    assert "noise ceiling" not in TABLE.markdown()


def test_latex_for_a_paper() -> None:
    text = ScoreTable([replace(ROW, regressor="a_b & 50%", note="art: 2 copies")]).latex()
    assert text.startswith(r"""% needs \usepackage{booktabs}
\begin{table}
\caption{Inside a dataset (out of fold): Pearson's r [95\% interval]}
\begin{tabular}{ll}
\toprule
 dataset   & a\_b \& 50\%            \\
\midrule
 art       & 0.812 [0.700, 0.900] \\
\bottomrule
\end{tabular}
\end{table}
""")
    assert text.endswith("% art: 2 copies\n")
    assert "→" not in TABLE.latex()
