"""A script for each rule of `repro doctor`: lines that end with ``#!`` must be found, and no others."""

#: For each rule a script: lines with the mark are found, the clean twins beside them are not.
SCRIPTS = {
    "loader-without-generator": """\
        import torch
        import torch.utils.data as tud
        from torch.utils.data import DataLoader as DL, RandomSampler, SubsetRandomSampler, random_split
        from torch.utils.data import DataLoader, WeightedRandomSampler
        from torch.utils.data.dataloader import DataLoader as Deep

        Again = DataLoader
        g = torch.Generator().manual_seed(1)
        args = {"batch_size": 4, "shuffle": True}
        seeded = dict(args, generator=g)
        more = {"batch_size": 4}
        more.update({"shuffle": True})
        entry = {}
        entry["shuffle"] = True


        def loaders(data, train, unknown):
            DL(data, shuffle=True)  #!
            tud.DataLoader(data, 4, True)  #!
            Again(data, shuffle=train)  #!
            DataLoader(data, shuffle=True, generator=None)  #!
            DataLoader(data, **args)  #!
            DataLoader(data, **more)  #!
            DataLoader(data, **entry)  #!
            Deep(data, shuffle=True)  #!
            DataLoader(
                data,  #?
                shuffle=True,
            )
            RandomSampler(data)  #!
            SubsetRandomSampler([1, 2])  #!
            WeightedRandomSampler([0.1], 1)  #!
            random_split(data, [1, 2])  #!
            DL(data, shuffle=False)
            DL(data)
            DL(data, shuffle=True, generator=g)
            DL(data, 4, True, None, None, 0, None, False, False, 0, None, None, g)
            DL(data, sampler=RandomSampler(data, generator=g))
            DL(data, shuffle=True, **unknown)
            DL(data, **args, generator=g)
            DL(data, **seeded)
            random_split(data, [1, 2], g)
        """,
    "persistent-workers": """\
        import torch.utils.data

        torch.utils.data.DataLoader([1], num_workers=2, persistent_workers=True)  #!
        workers = 2
        torch.utils.data.DataLoader([1], num_workers=workers, persistent_workers=workers > 0)  #!
        torch.utils.data.DataLoader([1], num_workers=2, persistent_workers=False)
        """,
    "out-of-order-loader": """\
        from torch.utils import data

        data.DataLoader([1], num_workers=2, in_order=False)  #!
        data.DataLoader([1], num_workers=2, in_order=True)
        """,
    "global-draw-in-worker": """\
        import random

        import numpy as np
        from numpy.random import normal as noise
        from torch.utils.data import DataLoader, Dataset
        from torchvision.transforms import Compose


        def crop(x):
            return x + random.randint(0, 3)  #!


        class Faces(Dataset):
            def __init__(self):
                self.order = np.random.permutation(4)
                self.transform = Compose([Flip()])

            def __getitem__(self, index):
                x = crop(index) + noise()  #!
                return self.moved(x)

            def moved(self, x):
                return x + np.random.rand()  #!


        class Flip:
            def __call__(self, x):
                return x if random.random() < 0.5 else -x  #!


        class Steady(Dataset):
            def __getitem__(self, index):
                rng = np.random.default_rng([1, index])
                return rng.normal() + random.Random(index).random()


        class Seeded(Dataset):
            def __getitem__(self, index):
                return np.random.RandomState(index).rand()


        class Other:
            def __call__(self, x):
                return x + random.random()


        def joined(items):
            random.shuffle(items)  #!
            return items


        DataLoader(Faces(), num_workers=2, collate_fn=joined)
        DataLoader(Faces(), num_workers=2, collate_fn=lambda items: np.random.choice(items))  #!
        random.shuffle([1, 2])
        """,
    "unseeded-generator": """\
        import random
        from random import Random

        import numpy as np
        import torch
        from numpy.random import default_rng as rng

        np.random.default_rng()  #!
        rng()  #!
        rng(None)  #!
        rng(seed=None)  #!
        Random()  #!
        np.random.RandomState()  #!
        np.random.Generator(np.random.PCG64())  #!
        np.random.SeedSequence()  #!
        random.SystemRandom()  #!
        random.seed()  #!
        np.random.seed()  #!
        torch.seed()  #!
        torch.Generator().seed()  #!
        g = torch.Generator()
        g.seed()  #!
        rng(1)
        rng(seed=g.initial_seed())
        Random(3)
        np.random.RandomState(4)
        np.random.Generator(np.random.PCG64(5))
        torch.Generator().manual_seed(6)
        later = Random()
        later.seed(7)
        restored = np.random.default_rng()
        restored.bit_generator.state = {"state": 1}
        """,
    "changing-seed": """\
        import os
        import random
        import secrets
        import time
        import uuid
        from datetime import datetime as dt
        from time import time as now

        import lightning
        import numpy as np
        import torch
        from numpy.random import default_rng

        torch.manual_seed(int(time.time()))  #!
        random.seed(now())  #!
        np.random.seed(os.getpid() % 100)  #!
        default_rng(dt.now().microsecond)  #!
        random.Random(os.urandom(8))  #!
        torch.Generator().manual_seed(uuid.uuid4().int)  #!
        lightning.seed_everything(secrets.randbits(32))  #!
        np.random.RandomState(id(torch))  #!
        torch.manual_seed(hash("run"))  #!
        seed = 1000 * now()
        default_rng([3, seed])  #!
        given = os.environ.get("SEED")
        if given is None:
            given = now()
        torch.manual_seed(int(given))  #!


        def entropy():
            return os.getpid() + 1


        torch.manual_seed(entropy())  #!


        def set_seed(seed):
            torch.manual_seed(seed)


        set_seed(seed=time.time_ns())  #!


        def late(x, seed=int(time.time()), *, other=3, more=os.getpid()):
            torch.manual_seed(seed)  #!
            torch.manual_seed(other)
            torch.manual_seed(more)  #!


        split([1], random_state=int(time.time()))  #!
        config = {"seed": 3, "name": f"run-{time.time()}", "other": os.getpid()}
        torch.manual_seed(config["other"])  #!
        torch.manual_seed(config["seed"])
        started = time.time()
        torch.manual_seed(3)
        random.seed("a text")
        default_rng([3, int(os.environ["RANK"])])
        np.random.seed(torch.initial_seed() % 2**32)
        torch.manual_seed(hash((1, 2)))
        print(time.time() - started, hash("run"), id(torch))
        """,
    "unsorted-listing": """\
        import glob
        import os
        import random
        from glob import glob as g
        from os import listdir
        from pathlib import Path

        for name in os.listdir("."):  #!
            print(name)
        files = list(Path(".").glob("*.png"))  #!
        first = glob.glob("*.png")[0]  #!
        texts = [open(p).read() for p in Path(".").rglob("*.txt")]  #!
        pairs = {p.stem: p for p in Path(".").iterdir()}  #!
        random.shuffle(listdir("."))  #!
        with os.scandir(".") as entries:  #!
            sizes = [entry.name for entry in entries]
        table = list(enumerate(g("*")))  #!
        newest = next(Path(".").glob("*.pt"))  #!


        def found(folder):
            unused = os.listdir(folder)  #!
            names = os.listdir(folder)  #!
            return names[:3]


        def nobody_sorts(folder):
            return list(Path(folder).glob("*"))  #!


        class Images:
            def __init__(self, root):
                self.files = list(Path(root).glob("*.png"))  #!
                self.sorted = list(Path(root).glob("*.png"))
                self.sorted.sort()

            def __getitem__(self, index):
                return self.files[index], self.sorted[index]


        # Clean twins.
        for name in sorted(os.listdir(".")):
            open(name).close()
        ordered = sorted(p.name for p in Path(".").glob("*.png") if p.is_file())
        both = sorted([*Path(".").glob("*.png"), *Path(".").glob("*.jpg")])
        later = g("*.png")
        later.sort()
        again = os.listdir(".")
        again = sorted(again, key=len)
        if not os.listdir(".") or any(Path(".").iterdir()):
            print(len(os.listdir(".")), "files")
        count = sum(1 for _ in Path(".").iterdir())
        known = set(os.listdir("."))
        if "a" in os.listdir("."):
            pass
        for old in Path(".").glob("*.tmp"):
            old.unlink()
        latest = max(Path(".").glob("*.pt"), key=os.path.getmtime)
        is_there = next(Path(".").glob("*.pt"), None) is not None
        (only,) = Path(".").glob("*.bin")

        def gathered(folder):
            paths = []
            for path in Path(folder).rglob("*"):
                if path.suffix in (".png", ".jpg"):
                    paths.append(path)
            return sorted(paths)


        def helper(folder):
            return [p for p in Path(folder).glob("*") if p.is_file()]


        paths = sorted(helper("."))
        """,
    "set-iteration": """\
        words = "b a".split()
        for word in {"a", "b"}:  #!
            print(word)
        for word in set(words):  #!
            open(word).close()
        vocabulary = list(set(words))  #!
        index = {w: i for i, w in enumerate(set(words))}  #!
        upper = [w.upper() for w in {w for w in words}]  #!
        names = set()
        names.add(words[0])
        for name in names:  #!
            open(name).close()
        both = tuple(frozenset(words) | {"c"})  #!
        joined = ",".join(set(words))  #!
        many = [*set(words)]  #!


        class Words:
            def __init__(self, texts):
                self.words = set(texts)

            def index(self):
                return {w: i for i, w in enumerate(self.words)}  #!


        # Clean twins.
        for word in sorted({"a", "b"}):
            open(word).close()
        index = {w: i for i, w in enumerate(sorted(set(words)))}
        for size in {1, 2, 4}:
            print(size)
        for size in {size for size in (1, 2)} | set(range(3)):
            open(str(size)).close()
        unique = list(dict.fromkeys(words))
        if "a" in names or len(names) > 3 or any(name == "a" for name in names):
            print(len(set(words)), max(set(words)))
        ordered = list(names)
        ordered.sort()
        missing = set(words) - names
        if missing:
            raise ValueError(f"missing: {', '.join(missing)}")
        lower = {w.lower() for w in names}
        labels = set(int(w) for w in ordered)
        for label in labels:
            open(str(label)).close()


        class Shadow:
            names = sorted(names)

            def all(self):
                return [open(name) for name in names]  #!


        def shadowed(names):
            for name in names:
                open(name).close()
        """,
    "nondeterministic-operator": """\
        import torch
        import torch.nn.functional as F
        from torch import nn
        from torch.nn.functional import grid_sample as sample

        mode = "bilinear"


        class Net(nn.Module):
            def __init__(self):
                self.up = nn.Upsample(scale_factor=2, mode="bilinear")  #!
                self.pool = nn.AdaptiveAvgPool2d((7, 7))  #!
                self.unpool = nn.MaxUnpool2d(2)  #!
                self.pad = nn.ReflectionPad2d(1)  #!
                self.loss = nn.CTCLoss()  #!
                self.images = nn.NLLLoss2d()  #!
                self.bag = nn.EmbeddingBag(10, 3, mode="max")  #!
                self.nearest = nn.Upsample(scale_factor=2)
                self.one = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((1, 1)))
                self.mean = nn.EmbeddingBag(10, 3)

            def forward(self, x, index):
                x = F.interpolate(x, scale_factor=2, mode="bilinear")  #!
                x = F.interpolate(x, scale_factor=2, mode=mode)  #!
                x = sample(x, index)  #!
                x = F.pad(x, (1, 1), mode="reflect")  #!
                x = F.adaptive_avg_pool2d(x, 7)  #!
                y = torch.cumsum(x, 0)  #!
                y = x.cumsum(dim=1)  #!
                y = x.cumsum(-1)  #!
                y = x.median(0)  #!
                y = torch.bincount(index, weights=x)  #!
                y = x.histc(10)  #!
                x.put_(index, y)  #!
                x.scatter_reduce_(0, index, y, reduce="prod")  #!
                x = F.interpolate(x, scale_factor=2)
                x = F.interpolate(x, scale_factor=2, mode="nearest")
                x = F.pad(x, (1, 1))
                x = F.adaptive_avg_pool2d(x, 1)
                y = torch.cumsum(index, 0, dtype=torch.long)
                y = (index > 0).cumsum(0)
                y = x.median()
                y = torch.bincount(index)
                x.scatter_reduce_(0, index, y, reduce="amax")
                x.scatter_add_(0, index, y)
                return self.cumsum(x)

            def cumsum(self, x):
                return x
        """,
}
