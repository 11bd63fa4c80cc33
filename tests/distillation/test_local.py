"""Local folders of rows: by what they hold now, and by nothing outside of them."""

import io
import json
import os

import numpy as np
import PIL.Image
import pytest

from bilevel_distillation.data import check_apart, load


def png(seed):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def rows(names, seed=0, pictures=None, n=12):
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))}
    )
    columns = {
        "image": pictures or [png(seed + i) for i in range(n)],
        "label": [i % len(names) for i in range(n)],
    }
    return datasets.Dataset.from_dict(columns, features=features)


def parquet(path, names, seed=0, header=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows(names, seed).to_parquet(path)
    if header is not None:
        (path.parent / "README.md").write_text(f"---\n{header}\n---\n# Rows\n")
    return path.parent


def test_folders_of_one_name_and_one_with_new_content_give_their_own_rows(tmp_path):
    header = "configs:\n- config_name: default\n  data_files: rows.parquet"
    for folder, names in (("one", "ab"), ("two", "xy"), ("one", "cd")):
        found = load(parquet(tmp_path / folder / "set" / "rows.parquet", names, header=header))
        assert found.class_names == tuple(names)


def test_nothing_is_asked_of_the_cache_of_datasets(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", None)
    assert load(parquet(tmp_path / "set" / "train.parquet", "ab")).classes == 2
    rows("ab").save_to_disk(tmp_path / "saved")
    assert load(tmp_path / "saved").classes == 2


FILES = "train-1.parquet", "data/train-00000-of-00001.parquet", "Train/0.parquet", "rows.parquet"


@pytest.mark.parametrize("file", FILES)
def test_files_of_rows_are_of_the_split_that_they_name(tmp_path, file):
    import datasets

    path = tmp_path / "[set]" / file
    path.parent.mkdir(parents=True)
    rows("ab").to_parquet(path)
    assert len(load(tmp_path / "[set]").train_labels) == 10  # two are held out
    if "rows" not in file:
        rows("ab", seed=50).to_parquet(tmp_path / "[set]" / "testing.parquet")
        found = load(tmp_path / "[set]")
        assert (len(found.train_labels), len(found.test_labels)) == (12, 12)
    datasets.Dataset.from_dict({"x": [1]}).to_parquet(tmp_path / "[set]" / "metadata.parquet")
    assert load(tmp_path / "[set]").classes == 2


def test_files_that_name_no_split_beside_those_that_do_are_named(tmp_path, caplog):
    for file in ("train.parquet", "extra.parquet", "train-test.parquet"):
        folder = parquet(tmp_path / "set" / file, "ab")
    assert len(load(folder).train_labels) == 10
    assert "2 files" in caplog.text and "extra.parquet" in caplog.text


def test_files_of_one_split_that_number_their_classes_differently_are_refused(tmp_path):
    parquet(tmp_path / "set" / "train-0.parquet", "ab")
    folder = parquet(tmp_path / "set" / "train-1.parquet", "ba")
    with pytest.raises(ValueError, match=r"train-1.parquet' .* has other columns or classes"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"PAR1 and nonsense", "pointer"])
@pytest.mark.parametrize("name", ["train.parquet", "train.arrow"])
def test_a_file_of_rows_that_cannot_be_read_is_named(tmp_path, name, content):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (tmp_path / name).write_bytes(pointer if content == "pointer" else content)
    reason = "pointer of Git LFS.*git lfs pull" if content == "pointer" else ""
    with pytest.raises(ValueError, match=f"'{name}' of dataset .* cannot be read .*{reason}"):
        load(tmp_path)


@pytest.mark.parametrize("write_as", ["stream", "file"])
def test_arrow_files(tmp_path, write_as):
    import pyarrow

    table = rows("ab").data.table.combine_chunks()
    (tmp_path / "set").mkdir()
    path = str(tmp_path / "set" / "train.arrow")
    new = pyarrow.ipc.new_stream if write_as == "stream" else pyarrow.ipc.new_file
    with new(path, table.schema) as writer:
        writer.write_table(table)
    assert load(tmp_path / "set").class_names == ("a", "b")


def test_the_readme_tells_files_splits_and_columns(tmp_path):
    import pyarrow.parquet

    header = """configs:
- config_name: small
  data_files: nothing.parquet
- config_name: default
  data_files:
  - split: train
    path: ["odd/*-0.parquet", "odd/[x]*.parquet"]
  - split: test
    path: odd/**/2.parquet
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': pear
          '1': fig"""
    for i, file in enumerate(("a-0", "[x]*", "deep/2", "b-1")):
        path = tmp_path / "set" / "odd" / f"{file}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = rows("ab", seed=100 * i).data.table
        pyarrow.parquet.write_table(table.replace_schema_metadata(None), path)
    (tmp_path / "set" / "README.md").write_text(f"---\n{header}\n---\n")
    found = load(tmp_path / "set")
    assert found.class_names == ("pear", "fig")
    assert (len(found.train_labels), len(found.test_labels)) == (24, 12)


OUTSIDE = {
    "../other/*.parquet": "outside of the folder",
    "/etc/*.parquet": "outside of the folder",
    "~/rows.parquet": "outside of the folder",
    "https://example.org/rows.parquet": "outside of the folder",
    "a/../../other/rows.parquet": "outside of the folder",
    "link/rows.parquet": "none is there|which is not followed",
    "absent-*.parquet": "none is there",
}


@pytest.mark.parametrize("pattern", OUTSIDE)
def test_a_readme_does_not_lead_out_of_its_folder(tmp_path, pattern):
    parquet(tmp_path / "other" / "rows.parquet", "xy")
    header = f"configs:\n- config_name: default\n  data_files: {json.dumps(pattern)}"
    folder = parquet(tmp_path / "set" / "rows.parquet", "ab", header=header)
    if pattern.startswith("link"):
        (folder / "link").symlink_to(tmp_path / "other")
    with pytest.raises(ValueError, match=OUTSIDE[pattern]):
        load(folder)
    header = f"configs:\n- config_name: x\n  data_dir: {json.dumps(os.path.dirname(pattern))}"
    if "/" in pattern:
        (folder / "README.md").write_text(f"---\n{header}\n---\n")
        with pytest.raises((ValueError, OSError), match="outside|lies outside|cannot be read"):
            load(folder)


@pytest.mark.parametrize("header", ["a: [", "configs: 3", "configs:\n- data_files: 7", "- x"])
def test_a_readme_that_makes_no_sense(tmp_path, header):
    folder = parquet(tmp_path / "set" / "rows.parquet", "ab", header=header)
    if header == "- x":  # a list is no header, and says nothing
        assert load(folder).classes == 2
        return
    with pytest.raises(ValueError, match=r"README.md .* mend its header"):
        load(folder)


def test_several_configurations_need_one_by_default(tmp_path):
    header = "configs:\n" + "".join(
        f"- config_name: {name}\n  data_files: rows.parquet\n" for name in "xy"
    )
    folder = parquet(tmp_path / "set" / "rows.parquet", "ab", header=header)
    with pytest.raises(ValueError, match=r"several configurations, 'x', 'y'"):
        load(folder)


def test_a_readme_may_name_pictures(tmp_path, caplog):
    for k, folder in enumerate(("one/a", "one/b", "two/a", "two/b", "rest/a")):
        (tmp_path / "set" / folder).mkdir(parents=True)
        for i in range(6):
            (tmp_path / "set" / folder / f"{i}.png").write_bytes(png(10 * k + i)["bytes"])
    header = "configs:\n- config_name: x\n  data_files:\n    train: one/**\n    test: two/**"
    (tmp_path / "set" / "README.md").write_text(f"---\n{header}\n---\n")
    found = load(tmp_path / "set")
    assert found.class_names == ("a", "b")
    assert (len(found.train_labels), len(found.test_labels)) == (12, 12)
    assert "6 pictures" in caplog.text and "rest/a/0.png" in caplog.text


LINKS = {
    "a class folder": ("b", r"'b' of .* leads out of the folder, which is not followed"),
    "all pictures of a class": ("b/1.png", r"1 of 7 images .* leads out of the folder"),
    "a folder that is nowhere": ("c", r"leads nowhere"),
}


@pytest.mark.parametrize("what", LINKS)
def test_links_are_not_followed_out(tmp_path, what):
    link, message = LINKS[what]
    for folder in ("set/a", "set/b", "other"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(6 if folder == "set/a" else 0):
            (tmp_path / folder / f"{i}.png").write_bytes(png(i)["bytes"])
    (tmp_path / "other" / "1.png").write_bytes(png(9)["bytes"])
    target = tmp_path / "other" / ("1.png" if link.endswith("png") else "")
    place = tmp_path / "set" / link
    if link == "b":
        place.rmdir()
    place.symlink_to(target if "nowhere" not in what else tmp_path / "absent")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "set")


def test_links_inside_of_the_folder_are_followed_and_circles_are_named(tmp_path, caplog):
    for k, folder in enumerate(("set/a", "set/b")):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(5):
            (tmp_path / folder / f"{i}.png").write_bytes(png(10 * k + i)["bytes"])
    (tmp_path / "set" / "c").symlink_to("b")
    (tmp_path / "set" / "a" / "5.png").symlink_to("../b/0.png")
    (tmp_path / "set" / "a" / "up").symlink_to("..")
    os.mkfifo(tmp_path / "set" / "a" / "pipe")
    (tmp_path / "link").symlink_to("set")
    found = load(tmp_path / "link")
    assert found.class_names == ("a", "b", "c") and found.name == "set"
    assert len(found.train_labels) + len(found.test_labels) == 16
    assert "'a/up'" in caplog.text and "'a/pipe'" in caplog.text


def test_rows_name_no_pictures_outside_of_the_folder(tmp_path):
    import pyarrow.parquet

    (tmp_path / "set").mkdir()
    for place in (tmp_path / "secret.png", tmp_path / "set" / "own.png"):
        place.write_bytes(png(0)["bytes"])
    for path in ("own.png", "../secret.png", str(tmp_path / "secret.png"), "https://a.b/c.png"):
        pictures = [{"bytes": None, "path": path}, *map(png, range(11))]
        table = rows("ab", pictures=pictures).data.table
        pyarrow.parquet.write_table(table, tmp_path / "set" / "train.parquet")
        if path == "own.png":
            assert len(load(tmp_path / "set").train_labels) == 10
            continue
        with pytest.raises(ValueError, match=r"1 of 12 images|cannot be decoded"):
            pictures[1] = pictures[2] = pictures[0]
            table = rows("ab", pictures=pictures).data.table
            pyarrow.parquet.write_table(table, tmp_path / "set" / "train.parquet")
            load(tmp_path / "set")


@pytest.mark.parametrize("told", ["state", "splits", "link"])
def test_what_save_to_disk_wrote_does_not_lead_out_of_its_folder(tmp_path, told):
    import datasets

    both = datasets.DatasetDict({"train": rows("ab"), "test": rows("ba", seed=50)})
    both.save_to_disk(tmp_path / "set")
    rows("xy").save_to_disk(tmp_path / "other")
    assert load(tmp_path / "set").class_names == ("a", "b")
    state = tmp_path / "set" / "train" / "state.json"
    if told == "state":
        changed = json.loads(state.read_text())
        changed["_data_files"] = [{"filename": "../../other/data-00000-of-00001.arrow"}]
        state.write_text(json.dumps(changed))
    elif told == "splits":
        (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["../other", "test"]}')
    else:
        (file,) = (tmp_path / "set" / "train").glob("*.arrow")
        file.unlink()
        file.symlink_to(tmp_path / "other" / "data-00000-of-00001.arrow")
    with pytest.raises(ValueError, match="outside of its folder"):
        load(tmp_path / "set")
    state.write_text("{")
    with pytest.raises(ValueError, match=r"state.json .* is damaged|outside"):
        load(tmp_path / "set")


def test_a_folder_that_has_the_name_of_a_known_set_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert load("digits").classes == 10
    assert "'./digits'" in caplog.text


def test_a_folder_does_not_take_the_place_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BILEVEL_DATA", raising=False)
    parquet(tmp_path / "ylecun" / "mnist" / "train.parquet", "ab")
    with pytest.raises(ValueError, match=r"'ylecun/mnist' on the hub.*set BILEVEL_DATA"):
        load("mnist")
    assert load("ylecun/mnist").class_names == ("a", "b")


@pytest.mark.parametrize("place", ["a/run", "run", "."])
def test_a_run_in_the_data_folder_is_refused(tmp_path, place):
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to("set")
    for folder in (tmp_path / "set", tmp_path / "link"):
        with pytest.raises(ValueError, match="lies in the data folder"):
            check_apart(str(folder), tmp_path / "set" / place)
    check_apart(str(tmp_path / "set"), tmp_path / "set2")
    check_apart("no/such", tmp_path)
