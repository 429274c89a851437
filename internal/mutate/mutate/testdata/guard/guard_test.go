package guard_test

import (
	"testing"

	"guard.example"
)

// Each subtest is named after the check that it needs.
func TestEnter(t *testing.T) {
	good := guard.Visitor{Name: "alice", Badge: "A1", Word: "swordfish", Age: 30}
	if err := guard.Enter(good); err != nil {
		t.Errorf("Enter(%+v) = %v", good, err)
	}
	for _, tt := range []struct {
		name  string
		spoil func(*guard.Visitor)
	}{
		{"name", func(v *guard.Visitor) { v.Name = "" }},
		{"age", func(v *guard.Visitor) { v.Age = 12 }},
		{"else-if", func(v *guard.Visitor) { v.Age = 121 }},
		{"else-if.init", func(v *guard.Visitor) { v.Age = 99 }},
		{"limit", func(v *guard.Visitor) { v.Bags = 3 }},
		{"bags", func(v *guard.Visitor) { v.Bags = 3 }},
		{"spans-lines_1", func(v *guard.Visitor) { v.Name = "eve" }},
		{"spans-lines_1", func(v *guard.Visitor) { v.Banned = true }},
		{"spans-lines_2", func(v *guard.Visitor) { v.Badge = "copied" }},
		{"spans-lines_2", func(v *guard.Visitor) { v.Badge = "forged" }},
		{"badge", func(v *guard.Visitor) { v.Badge = "" }},
		{"word", func(v *guard.Visitor) { v.Word = "" }},
		{"map-entry", func(v *guard.Visitor) { v.Name = "mallory" }},
		{"inner", func(v *guard.Visitor) { v.Name = "ß" }},
		{"outer", func(v *guard.Visitor) { v.Name = "ß" }},
		{"outer", func(v *guard.Visitor) { v.Name = "a!" }},
		{"case", func(v *guard.Visitor) { v.Word = "abracadabra" }},
		{"cases", func(v *guard.Visitor) { v.Word = "sesame" }},
		{"cases", func(v *guard.Visitor) { v.Word = "open" }},
		{"one-line-literal", func(v *guard.Visitor) { v.Word = "please" }},
		{"shared", func(v *guard.Visitor) { v.Name, v.Bags = "thief", 1 }},
		{"shared", func(v *guard.Visitor) { v.Bags = -2 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := good
			tt.spoil(&v)
			if guard.Enter(v) == nil {
				t.Errorf("Enter(%+v) = nil", v)
			}
		})
	}
}
