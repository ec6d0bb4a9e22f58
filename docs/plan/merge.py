"""Merge and move modules mechanically.

usage: merge.py ROOT LAYOUT
LAYOUT lines:
  limbeck.pkg.new: limbeck.a.b limbeck.a.c ...      (first source keeps the docstring)
Within a merge later modules' colliding private names get a prefix; equal definitions are kept once.
"""
import ast, io, re, subprocess, sys, tokenize
from pathlib import Path
root=Path(sys.argv[1]).resolve(); src=root/"src"
layout=[]
for l in Path(sys.argv[2]).read_text().splitlines():
    l=l.split("#")[0].strip()
    if not l: continue
    t,s=l.split(":"); layout.append((t.strip(),s.split()))
def path_of(mod):
    p=src/Path(*mod.split("."))
    return p/"__init__.py" if (p/"__init__.py").exists() else p.with_suffix(".py")
strip=lambda t: t.removesuffix(".__init__")
moved={s:strip(t) for t,ss in layout for s in ss if s!=strip(t)}
def reexports(pk,name):
    p=path_of(pk)
    if p.name!="__init__.py" or not p.exists(): return False
    for n in ast.walk(ast.parse(p.read_text())):
        if isinstance(n,ast.ImportFrom) and n.module!=pk and any((a.asname or a.name)==name for a in n.names): return True
        if isinstance(n,(ast.FunctionDef,ast.ClassDef)) and n.name==name: return True
    return False
keepname={m for m in moved if reexports(m.rpartition(".")[0],m.rpartition(".")[2])}
renames={}  # (module,name)->new name
def toks(text): return list(tokenize.generate_tokens(io.StringIO(text).readline))
def replace_names(text,mapping,attr_base=None):
    """Replace NAME tokens not preceded by '.'; keyword-argument names (followed by '=' inside parens) are kept."""
    out=text.split("\n"); edits=[]
    ts=toks(text); depth=0
    for i,t in enumerate(ts):
        if t.type==tokenize.OP:
            if t.string in "([{": depth+=1
            elif t.string in ")]}": depth-=1
        if t.type==tokenize.NAME and t.string in mapping:
            if i and ts[i-1].string==".": continue
            if depth and i+1<len(ts) and ts[i+1].string=="=" and ts[i-1].string in ("(",",") : continue
            edits.append((t.start,t.end,mapping[t.string]))
    for (l,c),(l2,c2),new in reversed(edits):
        s=out[l-1]; out[l-1]=s[:c]+new+s[c2:]
    return "\n".join(out)
class Mod: pass
def top_names(body):
    names={}
    for n in body:
        if isinstance(n,(ast.ClassDef,ast.FunctionDef)): names.setdefault(n.name,[]).append(n)
        elif isinstance(n,ast.Assign):
            for t in n.targets:
                for x in ast.walk(t):
                    if isinstance(x,ast.Name): names.setdefault(x.id,[]).append(n)
        elif isinstance(n,ast.AnnAssign): names.setdefault(n.target.id,[]).append(n)
    return names
def dump(n): return ast.dump(n)
problems=[]
def load(mod):
    m=Mod(); m.name=mod; m.path=path_of(mod); m.text=m.path.read_text(); return m
def split(m):
    tree=ast.parse(m.text); lines=m.text.split("\n")
    m.imports=[];m.tc=[];m.body=[];m.doc=None
    prev_end=0
    for i,n in enumerate(tree.body):
        start=n.lineno-1
        if isinstance(n,(ast.ClassDef,ast.FunctionDef)) and n.decorator_list: start=min(d.lineno for d in n.decorator_list)-1
        seg_start=prev_end
        # include comments between statements
        seg="\n".join(lines[seg_start:n.end_lineno])
        if i==0 and isinstance(n,ast.Expr) and isinstance(n.value,ast.Constant) and isinstance(n.value.value,str):
            m.doc=seg; prev_end=n.end_lineno; continue
        if isinstance(n,ast.ImportFrom) and n.module=="__future__": prev_end=n.end_lineno; continue
        if isinstance(n,(ast.Import,ast.ImportFrom)): m.imports.append(n)
        elif isinstance(n,ast.If) and ast.unparse(n.test)=="TYPE_CHECKING" and all(isinstance(x,(ast.Import,ast.ImportFrom)) for x in n.body): m.tc+=n.body
        else: m.body.append((n,seg.strip("\n")))
        prev_end=n.end_lineno
    m.tail="\n".join(lines[prev_end:]).strip("\n")
    return m
def merge(target,sources):
    mods=[split(load(s)) for s in sources]
    srcset=set(sources)|{target}
    defs={}; imps={}; tcs={}; bodies=[]
    all_imports=[]; all_tc=[]
    # collisions
    seen={}
    for m in mods:
        names=top_names([n for n,_ in m.body]); mapping={}; drop=set()
        for nm,nodes in names.items():
            if nm in seen:
                if len(nodes)==1 and dump(seen[nm][0])==dump(nodes[0]): drop.add(id(nodes[0])); continue
                key=(m.name,nm)
                base=m.name.split(".")[-1].strip("_")
                new=explicit.get(f"{m.name}.{nm}")
                if new is None:
                    if nm.startswith("_"): new=f"_{base.upper()}{nm}" if nm.isupper() else f"_{base}{nm}"
                    elif nm.isupper(): new=f"{base.upper()}_{nm}"; problems.append(f"public constant {m.name}.{nm} -> {new}")
                    else: new=None; problems.append(f"COLLISION {m.name}.{nm} with {target}")
                if new: mapping[nm]=new; renames[(m.name,nm)]=new; seen[new]=nodes
            else: seen[nm]=nodes
        if mapping:
            m.text=replace_names(m.text,mapping); d=drop
            keep={i for i,(n,_) in enumerate(m.body) if id(n) in drop}
            split(m)
            m.body=[b for i,b in enumerate(m.body) if i not in keep]
        else: m.body=[(n,s) for n,s in m.body if id(n) not in drop]
        m.drop_after=None
    for m in mods:
        modalias={}
        for lst,tc in ((m.imports,False),(m.tc,True)):
            for n in lst:
                if isinstance(n,ast.ImportFrom) and n.level==0 and n.module in srcset:
                    for a in n.names:
                        nm=renames.get((n.module,a.name),a.name)
                        if a.asname and a.asname!=nm: modalias[a.asname]=nm
                    continue
                if isinstance(n,ast.ImportFrom):
                    rest=[]
                    for a in n.names:
                        if f"{n.module}.{a.name}" in srcset and f"{n.module}.{a.name}" not in keepname: modalias[a.asname or a.name]=None
                        else: rest.append(a)
                    if not rest: continue
                    n=ast.ImportFrom(n.module,rest,0)
                (all_tc if tc else all_imports).append(ast.unparse(n))
        body="\n\n\n".join(s for _,s in m.body)
        plain={k:v for k,v in modalias.items() if v}
        if plain: body=replace_names(body,plain)
        for k,v in modalias.items():
            if v is None: body=re.sub(rf"(?<![\w.]){k}\.(?=\w)","",body)
        bodies.append(body)
        # function level imports of merged modules
    text="\n\n\n".join(b for b in bodies if b)
    lines=[]
    doc=docs.get(target) or mods[0].doc or '"""."""'
    out=doc+"\n\nfrom __future__ import annotations\n\n"+"\n".join(dict.fromkeys(all_imports))+"\n"
    if all_tc:
        if "from typing import TYPE_CHECKING" not in out: out+="from typing import TYPE_CHECKING\n"
        out+="\nif TYPE_CHECKING:\n"+"\n".join("    "+x for x in dict.fromkeys(all_tc))+"\n"
    out+="\n\n"+text+"\n"
    # drop local imports of merged siblings
    t=ast.parse(out); ls=out.split("\n"); kill=[]
    for n in ast.walk(t):
        if isinstance(n,ast.ImportFrom) and n.module in srcset:
            kill.append((n.lineno,n.end_lineno))
    for a,b in sorted(kill,reverse=True): del ls[a-1:b]
    return "\n".join(ls)
explicit={}; docs={}
for f in sys.argv[3:]:
    for l in Path(f).read_text().splitlines():
        l=l.split("#")[0].strip()
        if l: k,v=l.split(); explicit[k]=v
exports={}
for d in (src/"limbeck").rglob("__init__.py"):
    pk=".".join(d.parent.relative_to(src).parts)
    for n in ast.parse(d.read_text()).body:
        if isinstance(n,ast.ImportFrom) and n.module:
            for a in n.names: exports.setdefault(pk,{})[a.asname or a.name]=(n.module,a.name)
made=[]
for target,sources in layout:
    text=merge(target,sources)
    made.append((target,sources,text))
if any(p.startswith("COLLISION") for p in problems):
    print("\n".join(problems)); sys.exit(1)
print("\n".join(problems))
for target,sources,text in made:
    for src_ in sources:
        p=path_of(src_)
        if p.exists(): p.unlink()
gone=set()
for d in sorted((d for d in (src/"limbeck").rglob("*") if d.is_dir()),reverse=True):
    f=[x for x in d.iterdir() if x.name!="__pycache__"]
    if not f or all(x.name=="__init__.py" for x in f) and str(d.relative_to(src)).replace("/",".") in {s.rpartition(".")[0] for s in moved}:
        if f and len(f[0].read_text().split("\n"))>8: print("kept",d); continue
        import shutil; shutil.rmtree(d); print("empty",d); gone.add(".".join(d.relative_to(src).parts))
for target,sources,text in made:
    p=src/Path(*target.split(".")).with_suffix(".py")
    if (src/Path(*target.split("."))).is_dir(): p=src/Path(*target.split("."))/"__init__.py"
    p.parent.mkdir(parents=True,exist_ok=True)
    if not (p.parent/"__init__.py").exists() and p.name!="__init__.py": (p.parent/"__init__.py").write_text("")
    p.write_text(text)
# import sites
def fix(p):
    text=p.read_text()
    if "limbeck" not in text: return
    try: tree=ast.parse(text)
    except SyntaxError: return
    lines=text.split("\n"); edits=[]; attr={}
    assigned={n.id for n in ast.walk(tree) if isinstance(n,ast.Name) and isinstance(n.ctx,ast.Store)}|{a.arg for n in ast.walk(tree) if isinstance(n,ast.arguments) for a in n.args+n.kwonlyargs+n.posonlyargs}
    for n in ast.walk(tree):
        if isinstance(n,ast.ImportFrom) and n.level==0 and n.module:
            groups={}
            changed=False
            for a in n.names:
                full=f"{n.module}.{a.name}"
                if n.module in gone and n.module not in moved and a.name in exports.get(n.module,{}):
                    om,on=exports[n.module][a.name]
                    groups.setdefault(moved.get(om,om),[]).append(ast.alias(renames.get((om,on),on),a.asname)); changed=True
                elif n.module in moved or (n.module,a.name) in renames:
                    new=renames.get((n.module,a.name),a.name); tgt=moved.get(n.module,n.module)
                    asn=a.asname
                    if new!=a.name and not asn: attr_name[(p,a.name)]=new; asn=None; plainren[a.name]=new
                    groups.setdefault(tgt,[]).append(ast.alias(new,asn)); changed=True
                elif full in moved and full not in keepname:
                    tgt=moved[full]; pk,_,last=tgt.rpartition(".")
                    local=a.asname or a.name
                    if a.asname or last in assigned: groups.setdefault(pk,[]).append(ast.alias(last,local if local!=last else None))
                    else:
                        groups.setdefault(pk,[]).append(ast.alias(last,None)); attr[local]=(last,full)
                    changed=True
                else: groups.setdefault(n.module,[]).append(a)
            if changed:
                ind=" "*n.col_offset
                new="\n".join(ind+ast.unparse(ast.ImportFrom(m,al,0)) for m,al in groups.items())
                edits.append((n.lineno,n.end_lineno,new))
        elif isinstance(n,ast.Import):
            for a in n.names:
                if a.name in moved:
                    ind=" "*n.col_offset
                    edits.append((n.lineno,n.end_lineno,ind+ast.unparse(ast.Import([ast.alias(moved.get(b.name,b.name),b.asname) for b in n.names])))); break
    for a,b,new in sorted(set(edits),reverse=True): lines[a-1:b]=[new]
    text="\n".join(lines)
    for local,(last,full) in attr.items():
        def sub(mt):
            nm=mt.group(1); return last+"."+renames.get((full,nm),nm)
        text=re.sub(rf"(?<![\w.\"']){local}\.(\w+)",sub,text)
        text=re.sub(rf"(?<![\w.]){local}(?=[,)])",last,text) if local!=last else text
    p.write_text(text)
attr_name={}
for p in [*src.rglob("*.py"),*(root/"tests").rglob("*.py"),*(root/"benchmarks").rglob("*.py"),*(root/"docs").rglob("*.py")]:
    plainren={}
    fix(p)
    if plainren: p.write_text(replace_names(p.read_text(),plainren))
# text
pat=re.compile(r"\b("+"|".join(re.escape(m) for m in sorted(moved,key=len,reverse=True))+r")(?![\w])")
slash=sorted(((m.replace(".","/")+".py",t.replace(".","/")+".py") for m,t in moved.items()),key=lambda x:-len(x[0]))
slash+= [(a.removeprefix("limbeck/"),b.removeprefix("limbeck/")) for a,b in slash]
def retext(t):
    t=pat.sub(lambda m: moved[m[1]],t)
    for a,b in slash: t=re.sub(rf"(?<![\w/]){re.escape(a)}",b,t) if not a.startswith("limbeck") else t.replace(a,b)
    return t
for p in [*root.glob("*.md"),root/"pyproject.toml",*(root/"docs").rglob("*.md"),*src.rglob("*.jinja")]:
    s=p.read_text(); n=retext(s)
    if n!=s: p.write_text(n)
for p in [*src.rglob("*.py"),*(root/"tests").rglob("*.py"),*(root/"benchmarks").rglob("*.py"),*(root/"docs").rglob("*.py")]:
    s=p.read_text()
    if "limbeck" not in s: continue
    ls=s.split("\n")
    try: ts=[t for t in toks(s) if t.type in (tokenize.STRING,tokenize.COMMENT) or t.type==getattr(tokenize,"FSTRING_MIDDLE",-1)]
    except tokenize.TokenError: continue
    off=[0]
    for l in ls: off.append(off[-1]+len(l)+1)
    for t in reversed(ts):
        a,b=off[t.start[0]-1]+t.start[1],off[t.end[0]-1]+t.end[1]
        x=retext(s[a:b])
        if x!=s[a:b]: s=s[:a]+x+s[b:]
    p.write_text(s)
