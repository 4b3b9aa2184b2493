"""A run's robot belongs to it: its files are copied and hashed; a resumed run goes on with that robot or refuses."""

import json
import shutil
import xml.etree.ElementTree as ElementTree

import pytest
from runs import assert_same_run, run_small

from vintix_fast.report.record import read_run
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.world.kept_robot import keep_robot, robot_record
from vintix_fast.world.robot import ROBOTS, load_robot

OPTIONS = {"robot_type": "rex.toml", "gate": False, "num_improvement_loops": 1, "max_steps_per_episode": 6}


@pytest.fixture(autouse=True)
def plots_are_empty(monkeypatch):
    monkeypatch.setattr("vintix_fast.adaptation.write_curve", lambda path, rows: path.touch())


def make_rex(folder, urdf="../urdf/rex.urdf", mesh="../meshes/{}"):
    """A user's robot: Mini Cheetah, its URDF and meshes spread as ROS packages have them."""
    for name in ("robots", "urdf", "meshes"):
        (folder / name).mkdir(parents=True)
    for obj in (ROBOTS / "minicheetah").glob("*.obj"):
        (folder / "meshes" / obj.name).write_text(f"mtllib {obj.stem}.mtl\n{obj.read_text()}")
        (folder / "meshes" / f"{obj.stem}.mtl").write_text(f"newmtl {obj.stem}\n")
    links = (ROBOTS / "minicheetah.urdf").read_text().replace("minicheetah/", mesh.format(""))
    (folder / "urdf/rex.urdf").write_text(links)
    said = (ROBOTS / "minicheetah.toml").read_text().replace('"minicheetah.urdf"', json.dumps(urdf))
    (folder / "robots/rex.toml").write_text(said.replace("minicheetah", "rex"))
    return folder / "robots/rex.toml"


@pytest.fixture
def rex(tmp_path, monkeypatch):
    file = make_rex(tmp_path / "rex_description")
    monkeypatch.chdir(file.parent)
    return file


@pytest.fixture
def run(rex, tmp_path, tiny_checkpoint):
    run_small(tmp_path / "run", tiny_checkpoint, **OPTIONS)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("urdf", "mesh"),
    [("../urdf/rex.urdf", "../meshes/{}"), (None, "package://rex_description/meshes/{}"), (None, None)],
    ids=["relative", "package", "absolute"],
)
def test_a_copy_is_the_same_robot_wherever_it_lies(tmp_path, urdf, mesh):
    home = tmp_path / "rex_description"
    urdf, mesh = urdf or str(home / "urdf/rex.urdf"), mesh or str(home / "meshes") + "/{}"
    robot = load_robot(make_rex(home, urdf, mesh))
    record = robot_record(robot)
    keep_robot(robot, tmp_path / "robot")
    shutil.rmtree(home)
    moved = shutil.move(tmp_path / "robot", tmp_path / "elsewhere")
    copy = load_robot(f"{moved}/rex.toml")
    assert robot_record(copy)["sha256"] == record["sha256"]
    assert (copy.joint_axes == robot.joint_axes).all() and copy.default_pose_rad == robot.default_pose_rad
    names = {path.name for path in (tmp_path / "elsewhere").rglob("*.*")}
    assert {"abad.obj", "abad.mtl", "rex.urdf", "rex.toml"} <= names
    meshes = {element.get("filename") for element in ElementTree.parse(copy.urdf_path).iter("mesh")}
    assert all(name.startswith("package://") for name in meshes) == mesh.startswith("package://")


def test_what_is_said_counts_and_not_how(rex):
    record = robot_record(load_robot(rex))
    rex.write_text("# my robot\n" + rex.read_text())
    assert robot_record(load_robot(rex)) == record
    mesh = rex.parent.parent / "meshes/abad.obj"
    mesh.write_text(mesh.read_text() + "v 0 0 0\n")
    changed = robot_record(load_robot(rex))["sha256"]
    assert changed["URDF"] != record["sha256"]["URDF"] and changed["robot file"] == record["sha256"]["robot file"]


def test_bundled_robots_are_noted_and_not_copied(tmp_path, tiny_checkpoint):
    out = tmp_path / "run"
    run_small(out, tiny_checkpoint, **OPTIONS | {"robot_type": "minicheetah"})
    noted = json.loads((out / "config.json").read_text())["robot"]
    assert noted == robot_record(load_robot("minicheetah")) and "file" not in noted and not (out / "robot").exists()
    with pytest.raises(UsageError, match="another robot than --robot-type go1 .--robot-type was minicheetah, now go1"):
        run_small(out, tiny_checkpoint, resume=True, **OPTIONS | {"robot_type": "go1"})


@pytest.mark.parametrize("how", ["its absolute path", "the run's copy", "gone"])
def test_a_run_goes_on_with_its_robot(run, rex, tmp_path, tiny_checkpoint, monkeypatch, how):
    more = OPTIONS | {"num_improvement_loops": 2}
    whole = shutil.copytree(run, tmp_path / "whole")
    run_small(whole, tiny_checkpoint, resume=True, **more)
    if how == "gone":  # as on another machine
        shutil.rmtree(rex.parent.parent)
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        monkeypatch.setattr("runs.load_robot", lambda word: load_robot(run / "robot/rex.toml"))  # the fake simulator's
    word = {"its absolute path": str(rex), "the run's copy": str(run / "robot/rex.toml")}.get(how, "rex.toml")
    run_small(run, tiny_checkpoint, resume=True, **more | {"robot_type": word})
    assert_same_run(run, whole)


@pytest.mark.parametrize("key", ["kp", "task_names"])
def test_another_robot_of_the_same_name_is_refused(run, rex, tiny_checkpoint, key):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    old, new = {"kp": ("kp = ", "kp = 1"), "task_names": ("rex_walking_ad", "rex2_walking_ad")}[key]
    rex.write_text(rex.read_text().replace(old, new))
    with pytest.raises(
        UsageError, match=r"another robot than --robot-type rex.toml .SHA-256.*give --robot-type .*robot/rex"
    ):
        run_small(run, tiny_checkpoint, resume=True, **OPTIONS | {"num_improvement_loops": 2})
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_copy_that_was_changed_is_refused(run, rex, tiny_checkpoint):
    copy = run / "robot/rex.toml"
    copy.write_text(copy.read_text().replace("kp = ", "kp = 1"))
    with pytest.raises(InputFileError, match=r"robot/rex.toml is not the robot any more.*delete .*robot and give"):
        run_small(run, tiny_checkpoint, resume=True, **OPTIONS)
    shutil.rmtree(copy.parent)  # and is made again from the file that is given
    run_small(run, tiny_checkpoint, resume=True, **OPTIONS)
    assert robot_record(load_robot(copy))["sha256"] == robot_record(load_robot(rex))["sha256"]


@pytest.mark.parametrize("robot", [5, [], {"file": 5}, {"sha256": {"URDF": 7}}, {"file": "robot/rex.toml"}], ids=str)
def test_a_broken_record_is_named(run, tiny_checkpoint, robot):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"robot": robot}))
    with pytest.raises(InputFileError, match="config.json is broken .robot is"):
        run_small(run, tiny_checkpoint, resume=True, **OPTIONS)
    run_small(run, tiny_checkpoint, overwrite=True, **OPTIONS | {"robot_type": "minicheetah"})


def test_a_run_of_an_earlier_version_goes_on_and_gets_its_copy(run, rex, tiny_checkpoint):
    config = json.loads((run / "config.json").read_text())
    del config["robot"]
    (run / "config.json").write_text(json.dumps(config))
    shutil.rmtree(run / "robot")
    run_small(run, tiny_checkpoint, resume=True, **OPTIONS | {"robot_type": str(rex)})
    assert json.loads((run / "config.json").read_text())["robot"]["file"] == "robot/rex.toml"
    assert load_robot(run / "robot/rex.toml").name == "rex"


def test_a_run_of_an_earlier_version_has_no_task_of_another_name(run, rex, tiny_checkpoint):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "robot"}))
    shutil.rmtree(run / "robot")
    rex.write_text(rex.read_text().replace("rex_walking_ad", "rex2_walking_ad"))
    with pytest.raises(InputFileError, match="no group for rex; it has the tasks .*rex_walking_ad"):
        run_small(run, tiny_checkpoint, resume=True, **OPTIONS)


def test_overwriting_deletes_the_copy_and_spares_a_folder_of_the_users(run, rex, tiny_checkpoint):
    with pytest.raises(UsageError, match="--overwrite would delete --robot-type .*robot/rex.toml"):
        run_small(run, tiny_checkpoint, overwrite=True, **OPTIONS | {"robot_type": str(run / "robot/rex.toml")})
    bundled = OPTIONS | {"robot_type": "minicheetah", "overwrite": True}
    run_small(run, tiny_checkpoint, **bundled)
    assert not (run / "robot").exists()
    (run / "robot").mkdir()
    run_small(run, tiny_checkpoint, **bundled)
    assert (run / "robot").is_dir()
    with pytest.raises(UsageError, match=r"run/robot is in the way.*rename it"):
        run_small(run, tiny_checkpoint, **OPTIONS | {"overwrite": True})


def test_a_report_finds_the_robot_from_anywhere(run, rex, tmp_path, monkeypatch):
    shutil.rmtree(rex.parent.parent)
    monkeypatch.chdir(tmp_path)
    assert load_robot(read_run(run).robot_type).name == "rex"
