"""Type-aware renames through pyright's language server.

usage: lsp.py ROOT MAP   with MAP lines:  path/in/src/limbeck.py  Qual.name  new
Qual.name: module-level name, Class.member, func(param) as func:param or Class.method:param.
"""
import ast, json, subprocess, sys, threading, queue, os, re
from pathlib import Path
root = Path(sys.argv[1]).resolve()
lines=[l.split("#")[0].split() for l in Path(sys.argv[2]).read_text().splitlines()]
jobs=[l for l in lines if len(l)==3]
jobs=[j for j in jobs if "." in j[1] or ":" in j[1]]+[j for j in jobs if not("." in j[1] or ":" in j[1])]
(root/"pyrightconfig.json").write_text(json.dumps({"include":["src","tests","benchmarks","docs"],"extraPaths":["src","tests/support"],"venvPath":".","venv":".venv","typeCheckingMode":"off","indexing":True}))
p=subprocess.Popen(["npx","--yes","--package","pyright","pyright-langserver","--stdio"],stdin=subprocess.PIPE,stdout=subprocess.PIPE,stderr=subprocess.DEVNULL)
inbox={}
cond=threading.Condition()
def reader():
    while True:
        h={}
        while True:
            line=p.stdout.readline()
            if not line: return
            line=line.strip()
            if not line: break
            k,v=line.decode().split(": "); h[k]=v
        m=json.loads(p.stdout.read(int(h["Content-Length"])))
        if "method" in m and "id" in m:
            r=None
            if m["method"]=="workspace/configuration": r=[{} for _ in m["params"]["items"]]
            send({"jsonrpc":"2.0","id":m["id"],"result":r})
        elif "id" in m:
            with cond: inbox[m["id"]]=m; cond.notify_all()
threading.Thread(target=reader,daemon=True).start()
lock=threading.Lock()
def send(m):
    b=json.dumps(m).encode()
    with lock:
        p.stdin.write(b"Content-Length: %d\r\n\r\n"%len(b)+b); p.stdin.flush()
n=0
def req(method,params,timeout=300):
    global n; n+=1; i=n
    send({"jsonrpc":"2.0","id":i,"method":method,"params":params})
    with cond:
        if not cond.wait_for(lambda: i in inbox,timeout): raise TimeoutError(method)
    m=inbox.pop(i)
    if "error" in m: raise RuntimeError(m["error"])
    return m["result"]
def note(method,params): send({"jsonrpc":"2.0","method":method,"params":params})
uri=lambda f: Path(f).as_uri()
req("initialize",{"processId":os.getpid(),"rootUri":uri(root),"workspaceFolders":[{"uri":uri(root),"name":"r"}],
 "capabilities":{"workspace":{"configuration":True,"workspaceEdit":{"documentChanges":True}}}})
note("initialized",{})
opened={}
def open_(f):
    f=str(f)
    text=Path(f).read_text()
    if f not in opened:
        opened[f]=1
        note("textDocument/didOpen",{"textDocument":{"uri":uri(f),"languageId":"python","version":1,"text":text}})
    else:
        opened[f]+=1
        note("textDocument/didChange",{"textDocument":{"uri":uri(f),"version":opened[f]},"contentChanges":[{"text":text}]})
def locate(f,qual):
    src=Path(f).read_text(); tree=ast.parse(src); sl=src.splitlines()
    param=None
    if ":" in qual: qual,param=qual.split(":")
    node=tree
    def children(node):
        for c in ast.iter_child_nodes(node):
            yield c
            if isinstance(c,(ast.If,ast.Try,ast.With)): yield from children(c)
    for part in qual.split("."):
        hit=None
        for c in children(node):
            if isinstance(c,(ast.ClassDef,ast.FunctionDef)) and c.name==part: hit=c;break
            if isinstance(c,(ast.Assign,ast.AnnAssign)):
                for t in (c.targets if isinstance(c,ast.Assign) else [c.target]):
                    if isinstance(t,ast.Name) and t.id==part: return t.lineno-1,t.col_offset
        if hit is None and isinstance(node,ast.ClassDef):  # self.x = 
            for c in ast.walk(node):
                if isinstance(c,ast.Attribute) and c.attr==part and isinstance(c.value,ast.Name) and c.value.id=="self" and isinstance(c.ctx,ast.Store):
                    l=c.end_lineno-1; return l,c.end_col_offset-len(part)
        if hit is None: raise LookupError(f"{f}: {qual} ({part})")
        node=hit
    if param:
        for a in node.args.posonlyargs+node.args.args+node.args.kwonlyargs:
            if a.arg==param: return a.lineno-1,a.col_offset
        raise LookupError(f"{f}:{qual}:{param}")
    l=node.lineno-1
    m=re.search(r"\b(?:class|def)\s+"+re.escape(node.name)+r"\b",sl[l])
    return l,m.end()-len(node.name)
def docs(f,qual,new):
    """Rename a parameter or field in the docstring of its function or class."""
    holder,_,old=qual.replace(":",".").rpartition(".")
    if not holder: return 0
    tree=ast.parse(f.read_text()); node=tree
    for part in holder.split("."):
        hit=[c for c in ast.walk(node) if isinstance(c,(ast.ClassDef,ast.FunctionDef)) and c.name==part]
        if not hit: return 0
        node=hit[0]
    ls=f.read_text().split("\n"); cnt=0
    nodes=[node]+([c for c in node.body if isinstance(c,ast.FunctionDef)] if isinstance(node,ast.ClassDef) else [])
    for nd in nodes:
        if nd.body and isinstance(nd.body[0],ast.Expr) and isinstance(nd.body[0].value,ast.Constant) and isinstance(nd.body[0].value.value,str):
            for i in range(nd.body[0].lineno-1,nd.body[0].end_lineno):
                x=re.sub(rf"^(\s+){old}:(?= )",rf"\1{new}:",ls[i]); x=x.replace(f"`{old}`",f"`{new}`")
                if x!=ls[i]: cnt+=1; ls[i]=x
    if cnt: f.write_text("\n".join(ls)); open_(f)
    return cnt
def utf(line,col): return len(line.encode()[:col].decode())
def descendants():
    bases={}; where={}
    for g in [*root.glob("src/**/*.py"),*root.glob("tests/**/*.py")]:
        for n in ast.walk(ast.parse(g.read_text())):
            if isinstance(n,ast.ClassDef):
                names=[ast.unparse(b).split("[")[0].split(".")[-1] for b in n.bases]
                mem={c.name for c in n.body if isinstance(c,ast.FunctionDef)}|{c.target.id for c in n.body if isinstance(c,ast.AnnAssign) and isinstance(c.target,ast.Name)}|{t.id for c in n.body if isinstance(c,ast.Assign) for t in c.targets if isinstance(t,ast.Name)}
                bases.setdefault(n.name,set()).update(names); where.setdefault(n.name,[]).append((str(g.relative_to(root)),mem))
    return bases,where
bases,where=descendants()
def below(name):
    out=set(); todo={name}
    while todo:
        t=todo.pop()
        for c,b in bases.items():
            if t in b and c not in out: out.add(c); todo.add(c)
    return out
more=[]
for rel,qual,new in list(jobs):
    if "." in qual and ":" not in qual:
        cls,_,m=qual.rpartition(".")
        for d in below(cls):
            for f,mem in where[d]:
                if m in mem and f.startswith(("src","tests")): more.append([f,f"{d}.{m}",new])
print("overrides:",len(more))
jobs=[j for j in jobs if "." in j[1] or ":" in j[1]]+more+[j for j in jobs if not("." in j[1] or ":" in j[1])]
import time
for g in sorted([*root.glob("src/**/*.py"),*root.glob("tests/**/*.py"),*root.glob("benchmarks/*.py"),*root.glob("docs/*.py")]): open_(g)
time.sleep(3)
failed=[]
for rel,qual,new in jobs:
    f=root/rel if rel.startswith(("src/","tests/","benchmarks/")) else root/"src/limbeck"/rel
    try:
        l,c=locate(f,qual)
        text=f.read_text().splitlines()[l]; c=utf(text,c)
        open_(f)
        res=req("textDocument/rename",{"textDocument":{"uri":uri(f)},"position":{"line":l,"character":c},"newName":new})
        if res is None: raise RuntimeError("no result")
        changes=res.get("changes") or {}
        for d in res.get("documentChanges",[]):
            if "edits" in d: changes.setdefault(d["textDocument"]["uri"],[]).extend(d["edits"])
        cnt=0
        for u,eds in changes.items():
            from urllib.parse import unquote,urlparse
            g=Path(unquote(urlparse(u).path))
            ls=g.read_text().split("\n")
            seen=set()
            for e in sorted(eds,key=lambda e:(e["range"]["start"]["line"],e["range"]["start"]["character"]),reverse=True):
                s,t=e["range"]["start"],e["range"]["end"]
                k=(s["line"],s["character"])
                if k in seen: continue
                seen.add(k)
                assert s["line"]==t["line"]
                x=ls[s["line"]]; ls[s["line"]]=x[:s["character"]]+e["newText"]+x[t["character"]:]; cnt+=1
            g.write_text("\n".join(ls)); open_(g)
        cnt+=docs(f,qual,new)
        print(f"{rel} {qual} -> {new}: {cnt} edits in {len(changes)} files",flush=True)
    except Exception as e:
        failed.append((rel,qual,new,repr(e)[:200])); print("FAILED",rel,qual,new,repr(e)[:200],flush=True)
print(len(failed),"failed")
req("shutdown",None); note("exit",None)
(root/"pyrightconfig.json").unlink()
