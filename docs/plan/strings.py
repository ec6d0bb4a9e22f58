import re,sys,subprocess
from pathlib import Path
root=Path(sys.argv[1])
def files(*globs):
    for g in globs:
        for p in root.glob(g):
            if "__pycache__" in p.parts or not p.is_file(): continue
            yield p
def sub(globs,*pairs,flags=0):
    for p in files(*globs):
        s=p.read_text(); n=s
        for a,b in pairs: n=re.sub(a,b,n,flags=flags)
        if n!=s: p.write_text(n)
ALL=["src/**/*.py","tests/**/*.py","benchmarks/**/*.py","docs/**/*.py","docs/**/*.md","*.md","src/**/*.yaml","src/**/*.jinja","benchmarks/**/*.yaml"]
TEXT=["docs/**/*.md","*.md","src/**/*.yaml","benchmarks/**/*.yaml","tests/**/*.py","docs/**/*.py","benchmarks/**/*.py","src/**/*.py"]
# leftovers of typed renames
sub(["src/limbeck/evaluate/evaluation.py"],(r'cast\("Found"','cast("EvaluationOutcome"'))
sub(["src/limbeck/evaluate/model_extraction/runs.py"],(r'cost\.form\b','cost.response_format'))
sub(["src/limbeck/objective/*.py"],(r'cast\("Joined"','cast("ConnectorOutput"'))
# recipe keys
K=r'(?<![\w])'
def key(old,new,quoted=True):
    pairs=[(rf'(?<=[{{,\s\-(]){old}: ',f'{new}: '),(rf'(?<=\.){old}(?=[.=:\s"\'`,)\]])',new)] 
    if quoted: pairs+=[(rf'"{old}"',f'"{new}"'),(rf"'{old}'",f"'{new}'"),(rf'`{old}`',f'`{new}`')]
    return pairs
STAGE=[*key("train_teacher","train_teacher"),(r'-train_teacher\b','-train_teacher'),(r' `train_teacher:',' `train_teacher:')]
sub(TEXT,*STAGE)
sub(TEXT,(r'\brecorded: (true|false)',r'cache_teacher: \1'),(r'"recorded": (True|False)',r'"cache_teacher": \1'),(r'\.cache_teacher=','.cache_teacher='),(r'`cache_teacher`','`cache_teacher`'),(r'`cache_teacher: true`','`cache_teacher: true`'),(r'\brecorded=(True|False)',r'cache_teacher=\1'))
sub(TEXT,(r'\bbaseline: (true|false)',r'train_baseline: \1'),(r'"baseline": (True|False)',r'"train_baseline": \1'),(r'distill\.baseline=','distill.train_baseline='),(r'\bbaseline=(True|False)',r'train_baseline=\1'))
sub(TEXT,(r'grad_norm_every','grad_norm_every'))
sub(["docs/**/*.md","*.md","src/**/*.yaml","benchmarks/**/*.yaml"],(r'(?<=[{,\s])weights: (?=[\w./"\'$])','checkpoint: '),(r'teacher\.weights','teacher.checkpoint'),(r'`weights`','`checkpoint`'))
sub(["tests/**/*.py","benchmarks/**/*.py","src/**/*.py"],(r'teacher\.weights(?=[="\'])','teacher.checkpoint'),(r'student\.weights(?=[="\'])','student.checkpoint'),(r'model\.weights(?=["\'])','model.checkpoint'))
sub(TEXT,(r'\bquestions(?=: [\[{])','evaluations'),(r'--evaluations\b','--evaluations'),(r'evaluate\.questions(?=[.=\]\"])(?!\.\w+ import)(?!\.(attribution|calibration|cost|extraction|fairness|fidelity|robustness|uncertainty))','evaluate.evaluations'),(r'"evaluations"','"evaluations"'),(r'list evaluations','list evaluations'))
sub(TEXT,(r'data\.limit\b','data.max_samples'),(r'(?<=[{,\s])limit: (?=\{|\d)','max_samples: '),(r'"limit": (?=[{\d])','"max_samples": '),(r'--max-samples\b','--max-samples'),(r'evaluate\.limit','evaluate.max_samples'))
sub(TEXT,(r'(?<=[{,\s])groups: \[','sensitive_features: ['),(r'"groups": \[','"sensitive_features": ['),(r'data\.groups(?![\w ])','data.sensitive_features'))
for old,new in (("clip","max_grad_norm"),("accumulate","gradient_accumulation_steps"),("decay","lr_schedule"),("warmup","warmup_ratio"),("ema","ema_decay"),("workers","num_workers")):
    sub(["docs/**/*.md","*.md","src/**/*.yaml","benchmarks/**/*.yaml"],(rf'(?<=[{{,\s]){old}: (?=[\w.\d])',f'{new}: '),(rf'`{old}`',f'`{new}`'))
    sub(["tests/**/*.py","benchmarks/**/*.py"],(rf'"{old}": (?=[\d"TF])',f'"{new}": '),(rf'\.{old}=',f'.{new}='),(rf'(?<=[{{,\s]){old}: (?=[\d.]+[,}}\n])',f'{new}: '))
sub(["src/limbeck/**/*.py"],(r'"workers"','"num_workers"'))
for old,new in (("draws","n_resamples"),("sizes","epsilons"),("certified_sizes","certified_epsilons"),("attacked","attack_samples"),("outside","ood_samples")):
    sub(["docs/**/*.md","*.md","src/**/*.yaml","benchmarks/**/*.yaml","tests/**/*.py"],(rf'(?<=[{{,\s]){old}: (?=[\d\[])',f'{new}: '),(rf'"{old}": (?=[\d\[])',f'"{new}": '),(rf'(robustness|uncertainty|extraction|fidelity|calibration|fairness|attribution)\.{old}=',rf'\1.{new}='))
sub(TEXT,(r'\brecover: (?=[{])','finetune: '),(r'"finetune": ','"finetune": '),(r'(prune|quantize|factorize|\d)\.recover(?=[.="])',r'\1.finetune'),(r'"finetune"','"finetune"'),(r'`finetune`','`finetune`'))
sub(TEXT,(r'\bn_m\b','semi_structured'))
sub(TEXT,(r'\binputs: (?=\d)','activation_bits: '),(r'"inputs": (?=\d)','"activation_bits": '),(r'\bfold: (true|false)',r'fold_batch_norm: \1'),(r'"fold": (True|False)',r'"fold_batch_norm": \1'),(r'symmetric_activations','symmetric_activations'))
# verdict words
# evaluations' function
sub(["src/limbeck/evaluate/questions/__init__.py"],(r'attribute="ask"','attribute="evaluate"'),(r'kind="question"','kind="evaluation"'))
# batch key
sub(["src/**/*.py","tests/**/*.py","benchmarks/**/*.py","docs/**/*.md"],(r'(?<=batch)\["label"\]','["labels"]'),(r'(?<=sample)\["label"\]','["labels"]'),(r'(?<=b)\["label"\]','["labels"]'))
# losses by name in recipes
for old,new in (("fsp","fsp"),("pkt","pkt"),("mlkd","mlkd"),("review_kd","review_kd")):
    sub(TEXT,(rf'(?<=- ){old}:',f'{new}:'),(rf'"{old}"',f'"{new}"'),(rf'`{old}`',f'`{new}`'),(rf'\[{old}\]',f'[{new}]'))
sub(["src/limbeck/__init__.py","tests/**/*.py"],(r'"RecordedTeacher"','"CachedTeacher"'))
sub(["src/limbeck/pipeline/schema.py"],(r'definitions\["Recover"\]','definitions["FineTune"]'))
KEEP={"src/limbeck/pipeline/stages/export.py","tests/data/test_preprocess.py","tests/data/test_text.py","src/limbeck/data/spec.py","src/limbeck/display/matrix.py","src/limbeck/evaluate/model_extraction/section.py","src/limbeck/evaluate/model_extraction/runs.py","src/limbeck/pipeline/validate.py","tests/data/test_tables.py","tests/data/test_sources.py","tests/data/test_labels.py","tests/data/test_checks.py","tests/road/test_input.py","tests/road/test_table.py","tests/road/test_reuse.py","tests/report/test_page.py","tests/report/test_browser.py"}
for p in files("src/**/*.py","tests/**/*.py","benchmarks/**/*.py"):
    r=str(p.relative_to(root))
    if r in KEEP or "/sources/" in r: continue
    s=p.read_text(); n=re.sub(r'"label"(?!:\s*(str|datasets))','"labels"',s)
    if n!=s: p.write_text(n)
sub(["src/**/*.jinja"],(r'fmt\.moment','fmt.timestamp'))
for old,new in (("sizes","epsilons"),("certified_sizes","certified_epsilons"),("draws","n_resamples"),("attacked","attack_samples")):
    sub(["tests/evaluate/*.py","tests/support/*.py"],(rf'"{old}": (?=\()',f'"{new}": '))
sub(["tests/evaluate/*.py","tests/support/*.py"],(r'\bgroups=','sensitive_features='))
sub(["tests/data/*.py"],(r'\bgroups=(?=[(\["])','sensitive_features='),(r'"groups"','"sensitive_features"'))
sub(["tests/**/*.py"],(r'(?<=\()limit=(?=\d)','max_samples='),(r'\blimit=(?=[{\d])','max_samples='))
