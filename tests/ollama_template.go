// Renders templates in Go's language over messages, as Ollama does: JSON in, JSON out.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
)

type message struct {
	Role    string
	Content string
}

type data struct {
	System   string
	Messages []*message
}

type asked struct {
	Template string
	Talks    [][]*message
}

func main() {
	var all []asked
	if err := json.NewDecoder(os.Stdin).Decode(&all); err != nil {
		panic(err)
	}
	var made [][]string
	for _, one := range all {
		t, err := template.New("t").Parse(one.Template)
		if err != nil {
			panic(fmt.Sprint(err, one.Template))
		}
		var texts []string
		for _, talk := range one.Talks {
			var system []string
			for _, each := range talk {
				if each.Role == "system" {
					system = append(system, each.Content)
				}
			}
			var out strings.Builder
			if err := t.Execute(&out, data{strings.Join(system, "\n\n"), talk}); err != nil {
				panic(fmt.Sprint(err, one.Template))
			}
			texts = append(texts, out.String())
		}
		made = append(made, texts)
	}
	json.NewEncoder(os.Stdout).Encode(made)
}
