from pathlib import Path

import pytest
from made_files import CocoFolder, HuggingFaceFolder, VocFolder, YoloFolder


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    return CocoFolder(tmp_path)


@pytest.fixture
def voc(tmp_path: Path) -> VocFolder:
    return VocFolder(tmp_path)


@pytest.fixture
def yolo(tmp_path: Path) -> YoloFolder:
    return YoloFolder(tmp_path)


@pytest.fixture
def hub(tmp_path: Path) -> HuggingFaceFolder:
    return HuggingFaceFolder(tmp_path)
