"""Downloads the published data sets and knows their checksums."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mnist_tf.errors import UserError

# Images and labels to train on, and those of the test.
IDX_FILES = (
    "train-images-idx3-ubyte", "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
)  # fmt: skip
# SHA-256 of each array's bytes, whatever the file format. Computed from files with the
# published MD5 checksums.
ARRAY_SHA256 = {
    "mnist": (
        "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    ),
    "fashion_mnist": (
        "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
        "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    ),
}

# In the order in which they are tried.
MIRRORS = {
    "mnist": (
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    "fashion_mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
}
# Of the gzipped files on the mirrors.
GZIP_SHA256 = {
    "mnist": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    "fashion_mnist": (
        "08dc20ab1689590a0bcd66e874647b6ee8464e2d501b5a3f1f78831db19a3fdc",
        "b0197879cbda89f3dc7b894f9fd52b858e68ea4182b6947c9d8c2b67e5f18dcc",
        "78dcbbfb5a27efaf1b6c1d616caca68560be8766c5bffcb2791df9273a534229",
        "42bd18137a62d5998cdeae52bf3a0676ac6b706f5cf8439b47bb5b151ae3dccf",
    ),
}


def download(name: str, mirrors: tuple[str, ...], cache: Path) -> None:
    """Downloads the four gzipped IDX files of a data set.

    Files in the cache with the right checksum are kept. A file gets its name once it is
    complete and its checksum is verified.

    Args:
      name: a key of `GZIP_SHA256`.
      mirrors: URLs that end with a slash, tried in order for each file.
      cache: directory to write to.

    Raises:
      UserError: no mirror has a file with the right checksum.
    """
    for idx_file, checksum in zip(IDX_FILES, GZIP_SHA256[name], strict=True):
        _retrieve(f"{idx_file}.gz", mirrors, checksum, cache)


def download_and_unpack(url: str, sha256: str, directory: Path) -> None:
    """Downloads a tar archive and unpacks it into a directory, unless it is there.

    Raises:
      UserError: it cannot be downloaded, or its checksum differs.
    """
    import tarfile  # here, because few runs need it

    if directory.is_dir():
        return
    address, _, file = url.rpartition("/")
    archive = _retrieve(file, (f"{address}/",), sha256, directory.parent)
    try:
        with (
            tempfile.TemporaryDirectory(dir=directory.parent) as folder,
            tarfile.open(archive) as tar,
        ):
            unpacked = os.path.join(folder, directory.name)
            tar.extractall(unpacked, filter="data")
            os.rename(unpacked, directory)
    except (OSError, tarfile.TarError) as error:
        if not directory.is_dir():  # else another process was faster
            raise UserError(
                f"{archive} cannot be unpacked ({error}); free some space"
            ) from error


def _retrieve(file: str, mirrors: Sequence[str], checksum: str, cache: Path) -> str:
    """Downloads a file, unless it is in the cache; returns its path."""
    # Imported here because it takes 0.2 s and most runs do not download.
    import pooch

    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=(5, 30))
    errors = []
    for mirror in mirrors:
        try:
            return pooch.retrieve(
                f"{mirror}{file}", checksum, file, cache, downloader=downloader
            )
        except (OSError, ValueError) as error:
            # OSError covers requests' exceptions; ValueError is a wrong checksum.
            errors.append(f"{mirror}: {type(error).__name__}")
    raise UserError(
        f"cannot download {file} ({'; '.join(errors)}); check the network, or give "
        "a directory with the data"
    )
