// What the training thread pays for several times in every tick: metronorm.clock._ticking.
#include <Python.h>
#include <structmember.h>

#include <climits>

namespace {

struct Account {
  PyObject_HEAD
  PyObject* accounts;
  PyObject* name;
  long long ns;
};

struct Accounts {
  PyObject_HEAD
  PyObject* now;           // null before __init__
  PyObject* rest;          // the name of what no account covers
  PyObject* all;           // a list of Account
  Account** open;          // of these, the innermost last; one may be there twice
  Py_ssize_t depth, room;  // of `open`
  long long since;         // until here all time is charged
  long long last, rest_ns, entered;
  char counting;
};

template <class T>
T* as(PyObject* object) {
  return reinterpret_cast<T*>(object);
}

bool is_open(Accounts* self) {
  if (!self->now) PyErr_SetString(PyExc_RuntimeError, "Accounts.__init__ was not called");
  return self->now;
}

// Charges the time since the last call; false if that raised. Only `now` may run Python code: what
// follows it in a function is done at once, for other threads too.
bool charge(Accounts* self) {
  if (!is_open(self)) return false;
  PyObject* now = PyObject_CallNoArgs(self->now);
  if (!now) return false;
  const long long moment = PyLong_AsLongLong(now);
  Py_DECREF(now);
  if (moment == -1 && PyErr_Occurred()) return false;
  const long long passed = moment - self->since;
  self->since = moment;
  if (self->depth) {
    self->open[self->depth - 1]->ns += passed;
  } else if (self->counting) {
    self->rest_ns += passed;
  }
  return true;
}

PyObject* count(PyObject* object, bool counting) {
  Accounts* self = as<Accounts>(object);
  if (!charge(self)) return nullptr;
  self->counting = counting;
  self->last = self->since;
  Py_RETURN_NONE;
}

PyObject* accounts_begin(PyObject* self, PyObject*) { return count(self, true); }
PyObject* accounts_pause(PyObject* self, PyObject*) { return count(self, false); }

bool put(PyObject* spent, PyObject* name, long long ns) {
  PyObject* value = PyLong_FromLongLong(ns);
  const bool done = value && PyDict_SetItem(spent, name, value) == 0;
  Py_XDECREF(value);
  return done;
}

PyObject* accounts_close(PyObject* object, PyObject*) {
  Accounts* self = as<Accounts>(object);
  PyObject* spent = PyDict_New();
  if (!spent || !charge(self)) {
    Py_XDECREF(spent);
    return nullptr;
  }
  self->last = self->since;
  long long wall_ns = self->rest_ns;
  bool done = true;
  for (Py_ssize_t index = 0; done && index < PyList_Size(self->all); ++index) {
    Account* account = as<Account>(PyList_GetItem(self->all, index));
    if (const long long ns = account->ns) {
      account->ns = 0;
      wall_ns += ns;
      done = put(spent, account->name, ns);
    }
  }
  done = done && put(spent, self->rest, self->rest_ns);
  self->rest_ns = 0;
  if (done) return Py_BuildValue("LN", wall_ns, spent);
  Py_DECREF(spent);
  return nullptr;
}

int accounts_clear(PyObject* object) {
  Accounts* self = as<Accounts>(object);
  Py_CLEAR(self->now);
  Py_CLEAR(self->rest);
  Py_CLEAR(self->all);
  PyMem_Free(self->open);
  self->open = nullptr;
  self->depth = self->room = 0;
  return 0;
}

int accounts_init(PyObject* object, PyObject* args, PyObject*) {
  Accounts* self = as<Accounts>(object);
  PyObject *now, *rest;
  if (!PyArg_ParseTuple(args, "OU:Accounts", &now, &rest)) return -1;
  if (self->now) {
    PyErr_SetString(PyExc_RuntimeError, "Accounts.__init__ is called once");
    return -1;
  }
  self->now = Py_NewRef(now);
  self->rest = Py_NewRef(rest);
  self->all = PyList_New(0);
  if (!self->all || !charge(self)) {
    accounts_clear(object);
    return -1;
  }
  self->last = self->since;
  return 0;
}

int accounts_traverse(PyObject* object, visitproc visit, void* arg) {
  Accounts* self = as<Accounts>(object);
  Py_VISIT(Py_TYPE(object));
  Py_VISIT(self->now);
  Py_VISIT(self->all);
  return 0;
}

void deallocate(PyObject* object) {  // what has let go of its references
  PyTypeObject* type = Py_TYPE(object);
  reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(object);
  Py_DECREF(type);
}

void accounts_dealloc(PyObject* object) {
  PyObject_GC_UnTrack(object);
  accounts_clear(object);
  deallocate(object);
}

// --- Account -----------------------------------------------------------------------------------------

struct State {
  PyObject* accounts;  // the type
};

PyObject* account_new(PyTypeObject* type, PyObject* args, PyObject*) {
  const State* state = static_cast<State*>(PyType_GetModuleState(type));
  PyObject *accounts, *name;
  if (!PyArg_ParseTuple(args, "O!U:Account", state->accounts, &accounts, &name)) return nullptr;
  PyObject* object = is_open(as<Accounts>(accounts)) ? PyType_GenericAlloc(type, 0) : nullptr;
  if (!object) return nullptr;
  as<Account>(object)->accounts = Py_NewRef(accounts);
  as<Account>(object)->name = Py_NewRef(name);
  if (PyList_Append(as<Accounts>(accounts)->all, object) == 0) return object;
  Py_DECREF(object);
  return nullptr;
}

PyObject* account_enter(PyObject* object, PyObject*) {
  Accounts* accounts = as<Accounts>(as<Account>(object)->accounts);
  if (!charge(accounts)) return nullptr;
  if (accounts->depth == accounts->room) {
    const Py_ssize_t room = 2 * accounts->room + 8;
    void* grown = PyMem_Realloc(accounts->open, room * sizeof(Account*));
    if (!grown) return PyErr_NoMemory();
    accounts->open = static_cast<Account**>(grown);
    accounts->room = room;
  }
  accounts->open[accounts->depth++] = as<Account>(object);
  ++accounts->entered;
  Py_RETURN_NONE;
}

PyObject* account_exit(PyObject* object, PyObject* const*, Py_ssize_t) {
  Accounts* accounts = as<Accounts>(as<Account>(object)->accounts);
  if (!charge(accounts)) return nullptr;
  Py_ssize_t depth = accounts->depth;
  while (depth && accounts->open[depth - 1] != as<Account>(object)) --depth;
  // those inside are left too: a generator was left in one, for example
  if (depth) accounts->depth = depth - 1;
  Py_RETURN_NONE;
}

// Without tp_clear: every cycle of accounts goes through Accounts, which has one.
int account_traverse(PyObject* object, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(object));
  Py_VISIT(as<Account>(object)->accounts);
  return 0;
}

void account_dealloc(PyObject* object) {
  PyObject_GC_UnTrack(object);
  Py_XDECREF(as<Account>(object)->accounts);
  Py_XDECREF(as<Account>(object)->name);
  deallocate(object);
}

// --- the module --------------------------------------------------------------------------------------

PyObject* all_plain(PyObject*, PyObject* const* args, Py_ssize_t given) {
  if (given != 2 || !PyDict_Check(args[0]) || !PyAnySet_Check(args[1])) {
    PyErr_SetString(PyExc_TypeError, "all_plain(metrics: dict, known: set)");
    return nullptr;
  }
  Py_ssize_t position = 0;
  PyObject *name, *value;
  while (PyDict_Next(args[0], &position, &name, &value)) {
    if (!PyFloat_CheckExact(value)) {
      if (!PyLong_CheckExact(value)) Py_RETURN_FALSE;
      int overflow;
      const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
      if (overflow || number == LLONG_MIN) Py_RETURN_FALSE;  // its size is more than LARGEST
    }
    const int is_known = PySet_Contains(args[1], name);
    if (is_known < 0) return nullptr;
    if (!is_known) Py_RETURN_FALSE;
  }
  Py_RETURN_TRUE;
}

template <class F>
void* slot(F* function) {
  return reinterpret_cast<void*>(function);
}

PyMethodDef accounts_methods[] = {
    {"begin", accounts_begin, METH_NOARGS, nullptr},
    {"pause", accounts_pause, METH_NOARGS, nullptr},
    {"close", accounts_close, METH_NOARGS, nullptr},
    {}};

PyMemberDef accounts_members[] = {
    {"last", T_LONGLONG, offsetof(Accounts, last), READONLY, nullptr},
    {"entered", T_LONGLONG, offsetof(Accounts, entered), READONLY, nullptr},
    {"counting", T_BOOL, offsetof(Accounts, counting), READONLY, nullptr},
    {}};

PyType_Slot accounts_slots[] = {
    {Py_tp_init, slot(accounts_init)},         {Py_tp_dealloc, slot(accounts_dealloc)},
    {Py_tp_traverse, slot(accounts_traverse)}, {Py_tp_clear, slot(accounts_clear)},
    {Py_tp_methods, accounts_methods},         {Py_tp_members, accounts_members},
    {}};

PyMethodDef account_methods[] = {
    {"__enter__", account_enter, METH_NOARGS, nullptr},
    {"__exit__", reinterpret_cast<PyCFunction>(slot(account_exit)), METH_FASTCALL, nullptr},
    {}};

PyType_Slot account_slots[] = {{Py_tp_new, slot(account_new)},
                               {Py_tp_dealloc, slot(account_dealloc)},
                               {Py_tp_traverse, slot(account_traverse)},
                               {Py_tp_methods, account_methods},
                               {}};

PyType_Spec accounts_spec = {"metronorm.clock._ticking.Accounts", sizeof(Accounts), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
                             accounts_slots};
PyType_Spec account_spec = {"metronorm.clock._ticking.Account", sizeof(Account), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, account_slots};

State* state(PyObject* module) { return static_cast<State*>(PyModule_GetState(module)); }

int module_traverse(PyObject* module, visitproc visit, void* arg) {
  Py_VISIT(state(module)->accounts);
  return 0;
}

int module_clear(PyObject* module) {
  Py_CLEAR(state(module)->accounts);
  return 0;
}

int module_execute(PyObject* module) {
  PyObject* accounts = PyType_FromModuleAndSpec(module, &accounts_spec, nullptr);
  PyObject* account = PyType_FromModuleAndSpec(module, &account_spec, nullptr);
  state(module)->accounts = accounts;
  const bool added = accounts && account && !PyModule_AddType(module, as<PyTypeObject>(accounts)) &&
                     !PyModule_AddType(module, as<PyTypeObject>(account));
  Py_XDECREF(account);
  return added ? 0 : -1;
}

PyMethodDef module_methods[] = {
    {"all_plain", reinterpret_cast<PyCFunction>(slot(all_plain)), METH_FASTCALL, nullptr}, {}};

PyModuleDef_Slot module_slots[] = {{Py_mod_exec, slot(module_execute)}, {}};

PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_ticking",   nullptr,         sizeof(State),
    module_methods,        module_slots, module_traverse, module_clear,  nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__ticking() { return PyModuleDef_Init(&module); }
